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
"""
