#!/bin/bash
#SBATCH --job-name=checkpoint
#SBATCH --output=%x-%j.out
#SBATCH --ntasks=16
#SBATCH --mem-per-cpu=2G
#SBATCH --time=01:00:00
#SBATCH --mail-type=END,FAIL,TIME_LIMIT_80
# Two minutes before the wall time the ranks get SIGTERM; this script does not.
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append

module load openmpi
source ~/envs/analysis/bin/activate

srun --mpi=pmix python checkpoint.py
status=$?
# 143: ended by SIGTERM. Back into the queue, with the same number; the program goes on
# where it stopped. Any other status is the end, good or bad.
if [ "$status" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
