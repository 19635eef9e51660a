#!/bin/bash
#SBATCH --job-name=cluster
#SBATCH --ntasks=16
#SBATCH --mem-per-cpu=2G
#SBATCH --time=08:00:00
# A minute before the wall time: the cluster ends in order, and removes its file.
#SBATCH --signal=TERM@60

# A cluster for notebooks: it writes ~/scheduler.json and runs until it is cancelled, or a
# client calls shutdown(). --security lets in only those who can read that file.
srun --mpi="${MPI_PLUGIN:-pmix}" \
    mpidask --security --scheduler-file "${SCHEDULER_FILE:-$HOME/scheduler.json}"
