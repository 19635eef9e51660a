"""MPI inside Dask: functions that several ranks run at once, with a communicator of their own.

::

    submit (client)        plugin (scheduler)            rank, member (each worker)
    ---------------        ------------------            --------------------------
    one task a rank  --->  holds them until all are
                           ready and their ranks free
                           releases them       ------->  a thread takes up the task
                                               <-------  here
                           when all are here:
                           go                  ------->  makes the communicator, and runs
                           when one has        <-------  failed
                           or is cancelled or lost:
                           stop                ------->  the others end
                                               <-------  left

The tasks of one such function are its *gang*, one of them is a *member*. Dask resolves what
they depend on, and keeps what they return; the gang only decides when they start.

The modules, by where they run:

- client: `submit`, `per_rank`, `jobs` (which ranks there are);
- scheduler: `scheduler_plugin` hears of changes, `supervisor` decides for each gang, `starter`
  and `schedule` (the rules) let those start that may; `records` has what is known of them, and
  `scheduler_state` changes states of tasks;
- worker: `worker_plugin` binds a `rank` to it; `member` runs in a thread, `execution` is how
  others reach that, `communicators` makes its communicator;
- arrays that stay on ranks: `shared`, `handover`, `pieces`.
"""
