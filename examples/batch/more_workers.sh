#!/bin/bash
#SBATCH --job-name=more-workers
#SBATCH --ntasks=16
#SBATCH --time=01:00:00
# A second allocation adds its ranks to the cluster of cluster.sh. It may start before that
# one, and its end does not end the cluster.
srun --mpi="${MPI_PLUGIN:-pmix}" mpidask --no-scheduler --scheduler-file "${SCHEDULER_FILE:-$HOME/scheduler.json}"
