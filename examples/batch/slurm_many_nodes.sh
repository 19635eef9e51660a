#!/bin/bash
#SBATCH --job-name=analysis
#SBATCH --output=%x-%j.out
#SBATCH --nodes=100
#SBATCH --ntasks-per-node=8
#SBATCH --mem-per-cpu=2G
#SBATCH --time=01:00:00
#SBATCH --signal=TERM@120

module load openmpi

# A directory that each node has for itself, on a disk or in memory.
local="${TMPDIR:-/tmp}/analysis-$SLURM_JOB_ID"
on_each_node() { srun --ntasks="$SLURM_NNODES" --ntasks-per-node=1 "$@"; }

# Slurm reads the packed environment once and hands it from node to node.
on_each_node mkdir -p "$local"
sbcast ~/envs/analysis.tar "$local/analysis.tar"
on_each_node tar -xf "$local/analysis.tar" -C "$local" || exit

srun --mpi=pmix "$local/analysis/bin/python" analysis.py
status=$?
on_each_node rm -rf "$local"
exit "$status"
