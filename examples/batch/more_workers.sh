#!/bin/bash
#SBATCH --job-name=more-workers
#SBATCH --output=%x-%j.out
#SBATCH --ntasks=16
#SBATCH --mem-per-cpu=2G
#SBATCH --time=01:00:00
# A minute before the wall time: results held here move to the other workers.
#SBATCH --signal=TERM@60

module load openmpi
source ~/envs/analysis/bin/activate

# A second allocation adds its ranks to the cluster of cluster.sh. It may start before that
# one, and its end does not end the cluster.
srun --mpi=pmix mpidask --no-scheduler --scheduler-file ~/scheduler.json
