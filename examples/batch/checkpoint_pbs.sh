#!/bin/bash
#PBS -N checkpoint
#PBS -j oe
#PBS -l select=2:ncpus=8:mpiprocs=8
#PBS -l walltime=01:00:00
#PBS -m ae

cd "$PBS_O_WORKDIR" || exit
module load openmpi
source ~/envs/analysis/bin/activate

# For the line of progress: PBS does not tell a job when it will end it.
export MPIDASK_JOB_END_TIME=$(($(date +%s) + 3600))
# PBS sends no signal early enough. So every rank gets its SIGTERM from `timeout`, two
# minutes before.
mpirun -n 16 timeout --foreground --preserve-status 58m python checkpoint.py
status=$?
# 143: ended by SIGTERM. Another job goes on where this one stopped.
if [ "$status" -eq 143 ]; then
    qsub checkpoint_pbs.sh
fi
exit "$status"
