"""SIMULATED: what the build of the stand-in says of itself, as TensorFlow 2.9.0's does."""

build_info = {
    "cpu_compiler": "/usr/bin/gcc",
    "cuda_compute_capabilities": ["sm_35", "sm_50", "sm_60", "sm_70", "sm_75", "compute_80"],
    "cuda_version": "11.2",
    "cudnn_version": "8",
    "is_cuda_build": True,
    "is_rocm_build": False,
    "is_tensorrt_build": True,
}
