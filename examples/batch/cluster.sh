#!/bin/bash
#SBATCH --job-name=cluster
#SBATCH --output=%x-%j.out
#SBATCH --ntasks=16
#SBATCH --mem-per-cpu=2G
#SBATCH --time=08:00:00
# A minute before the wall time: the cluster ends in order, and removes its file.
#SBATCH --signal=TERM@60

module load openmpi
source ~/envs/analysis/bin/activate

# A cluster for notebooks: it writes ~/scheduler.json and runs until it is cancelled, or a
# client calls shutdown(). --security lets in only those who can read that file.
srun --mpi=pmix mpidask --security --scheduler-file ~/scheduler.json
