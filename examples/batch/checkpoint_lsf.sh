#!/bin/bash
#BSUB -J checkpoint
#BSUB -o %J.out
#BSUB -n 16
#BSUB -R "span[ptile=8]"
#BSUB -W 01:00
#BSUB -N
# A job that leaves with status 143, that of SIGTERM, goes back into the queue, with the
# same number; the program goes on where it stopped.
#BSUB -Q "143"

module load openmpi
source ~/envs/analysis/bin/activate

# For the line of progress: LSF does not tell a job when it will end it.
export MPIDASK_JOB_END_TIME=$(($(date +%s) + 3600))
# LSF would signal all processes of the job, and mpirun among them. So every rank gets its
# SIGTERM from `timeout`, two minutes before the wall time.
exec mpirun -n 16 timeout --foreground --preserve-status 58m python checkpoint.py
