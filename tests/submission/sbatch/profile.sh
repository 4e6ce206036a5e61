#!/bin/bash

# Parameters
#SBATCH --account=other
#SBATCH --array=0-39%16
#SBATCH --cpus-per-task=8
#SBATCH --error=FOLDER/.robharness/submissions/NEW/jobs/%A_%a_0_log.err
#SBATCH --exclude=n1,n2
#SBATCH --exclusive
#SBATCH --gres=gpu:a100:1
#SBATCH --job-name=robharness-toys
#SBATCH --mail-type=END,FAIL
#SBATCH --mem=32G
#SBATCH --nice
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output=FOLDER/.robharness/submissions/NEW/jobs/%A_%a_0_log.out
#SBATCH --partition=gpu
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=2160

# setup
module load cuda
export NCCL_DEBUG=WARN

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output FOLDER/.robharness/submissions/NEW/jobs/%A_%a_%t_log.out --error FOLDER/.robharness/submissions/NEW/jobs/%A_%a_%t_log.err --cpus-per-task=8 PYTHON -P -u -m submitit.core._submit FOLDER/.robharness/submissions/NEW/jobs
