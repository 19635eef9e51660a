"""MPI inside Dask: functions that several ranks run at once, with a communicator of their own.

::

    submit (client)        scheduler_plugin              rank, execution (each worker)
    ---------------        ----------------              -----------------------------
    one task a rank  --->  holds them back until all
                           are ready and their ranks
                           free, assigns them  ------->  a thread takes up the task
                                               <-------  arrived
                           when all have arrived:
                           start               ------->  creates the communicator, runs
                           when one has        <-------  failed
                           or is cancelled or lost:
                           stop                ------->  the others end
                                               <-------  left

The tasks of one `submit_mpi` are a *gang*. Dask computes what they depend on, and keeps what they
return; the plugin only decides when they start, and sees that all end if one fails. It reads and
changes task states by `_compat.task_states`; `gangs` has its records, `schedule` its rules, and
`protocol` the names that all three sides use.

On top of it, a `distributed_array` hands the arrays of ranks (`local_array`) to Dask and back, and
`hdf5` lets gangs write Dask arrays into a file (`hdf5_file`).
"""
