#!/bin/bash
#SBATCH --job-name=analysis
#SBATCH --output=%x-%j.out
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --mem-per-cpu=2G
#SBATCH --time=01:00:00
# SIGTERM two minutes before the wall time is over: `finally` blocks in main() save
# what there is.
#SBATCH --signal=TERM@120

module load openmpi
source ~/envs/analysis/bin/activate

# One rank is the scheduler, one runs main(), the other 14 are workers.
srun --mpi=pmix python analysis.py
