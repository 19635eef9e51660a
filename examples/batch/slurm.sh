#!/bin/bash
#SBATCH --job-name=analysis
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --mem-per-cpu=2G
#SBATCH --time=01:00:00
# Wall time is near: Slurm sends SIGTERM two minutes before it would kill the job, so that
# `finally` blocks in main() have time to save what there is.
#SBATCH --signal=TERM@120

# One rank is the scheduler, one runs main(), the others are workers. The right --mpi= plugin
# is the one of the MPI that mpi4py was built for: `srun --mpi=list` shows which there are.
srun --mpi="${MPI_PLUGIN:-pmix}" \
    "${PYTHON:-python}" "${PROGRAM:-examples/quickstart.py}"
