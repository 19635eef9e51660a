#!/bin/bash
#PBS -N analysis
#PBS -j oe
#PBS -l select=2:ncpus=8:mpiprocs=8
#PBS -l walltime=01:00:00

cd "$PBS_O_WORKDIR" || exit
module load openmpi
source ~/envs/analysis/bin/activate

# mpirun takes the place of bash, which a SIGTERM would end before main() is done.
exec mpirun -n 16 python analysis.py
