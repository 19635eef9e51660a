#!/bin/bash
#BSUB -J analysis
#BSUB -o %J.out
#BSUB -n 16
#BSUB -R "span[ptile=8]"
#BSUB -W 01:00
# SIGTERM two minutes before the wall time is over.
#BSUB -wt 2 -wa TERM

module load openmpi
source ~/envs/analysis/bin/activate

# mpirun takes the place of bash, which a SIGTERM would end before main() is done.
exec mpirun -n 16 python analysis.py
