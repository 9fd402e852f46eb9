"""What runs where: pure functions of the queue and the nodes. ``passes.place`` decides, ``explain`` tells."""
