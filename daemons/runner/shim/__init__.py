"""The fork server and its shims: what keeps a process task while no runner lives.

The fork server puts itself in the background and listens on a UNIX socket; one line of JSON,
``{"op": "start", "name": "7.1"}``, forks a *shim* for ``attempts/7.1``. A shim

* holds a lock on the attempt's folder while it lives and takes ``io/claim``, so that nothing starts twice;
* stores the task's pid in ``status`` before the task may execute anything: no pid means that it never ran;
* is the reaper of everything the task starts, sends all signals, and ends what the task leaves behind;
* keeps facts (raw wait status, times, memory), never judgements: the runner's journal knows what was wanted.

A task whose shim was killed falls to the fork server, which keeps it with the same code.

``{"op": "fence", "name": "7.1"}`` forks the *fence* of a container instead: it watches the lease and ends the
container when that is over. A fence that was killed is replaced by the fork server.

It is started without site-packages and imports the standard library and itself, nothing else and nothing
late: it starts in milliseconds, every task pays for what it holds, and it outlives the files it came from.
"""
