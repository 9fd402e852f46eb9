"""What Alembic runs; the connection, in a transaction already, comes from ``daemons.host.migrate``."""

from alembic import context

from daemons.host.schema import task

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=task.metadata,
    transactional_ddl=False,  # the transaction is the caller's
    render_as_batch=True,
)
context.run_migrations()
