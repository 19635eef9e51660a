"""The lifecycle of a cluster: what every rank does, and what the leader decides.

::

    member (every rank)                leader (one rank, beside its own member)
    -------------------                ----------------------------------------
    RankReady          ------------->  when all are ready:
    scheduler starts   <-------------  StartScheduler
    ConnectionInfo     ------------->
    MPI may carry data <-------------  StartTransport
    workers start      <-------------  ConnectionInfo, StartWorker
    WorkerStarted      ------------->  if there are several nodes:
    is MPI faster?     <-------------  MeasureTransport
    TransportMeasured  ------------->  if it is:
    MPI carries data   <-------------  SendByMPI
                                       when enough workers are up:
    the start is over  <-------------  Running; the user's function runs
    everything stops   <-------------  End
    Done               ------------->  when all are done: leave

A member that fails sends `Failed` instead; one that receives a signal, `Signalled`. If the
user's function shuts the scheduler down, its rank sends `Finished` as soon as it begins to close,
and the leader `SchedulerClosed` to all, so that no rank concludes that it is dead. A worker that
has no scheduler sends `LeaderSought`, and ends the job if no `LeaderThere` comes either.

To follow the start through the code: `front_end.prepared` checks the options and chooses
`MPICluster` or `local_cluster`; `MPICluster.__enter__` runs the `Handshake` of all ranks, then a
`Member` on each and the `Leader` on one; `Startup` has the rules for what the leader orders, and
`servers` what members start.
"""
