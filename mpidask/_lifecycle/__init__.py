"""The lifecycle of a cluster: what every rank does, and what the leader decides.

::

    member (every rank)                leader (one rank, beside its own member)
    -------------------                ----------------------------------------
    RankReady          ------------->  when all are ready:
    scheduler starts   <-------------  StartScheduler
    ConnectionInfo     ------------->
    data may go by MPI <-------------  StartTransport
    workers start      <-------------  ConnectionInfo, StartWorker
    WorkerStarted      ------------->  if there are several nodes:
    is MPI faster?     <-------------  MeasureTransport
    TransportMeasured  ------------->
    data goes by MPI   <-------------  SendByMPI, and when enough are up:
    the start is over  <-------------  Running; the user's function runs
    everything stops   <-------------  End
    Done               ------------->  when all are done: leave

A member that fails says `Failed` instead, and one that is sent a signal `Signalled`.
A scheduler that the user's function shuts down is `Finished` as soon as it begins to close;
the leader says so by `SchedulerClosed`, so that nobody takes its rank for dead.

All front ends come in by `front_end`, which chooses `mpi_cluster` or `local_cluster`.
"""
