"""Root causes of the application from text alone, retyped from the programs' formats; own host names and paths."""

from __future__ import annotations

import pytest
from test_framework_text import NOISE_ABOVE, NOISE_BELOW, table
from told import KNOWN, of_text, roots, row_ids, rows, short

CASES = {
    "cuda-visible-devices-hides": [
        """\
        $ export CUDA_VISIBLE_DEVICES=""
        $ python train.py
        RuntimeError: No CUDA GPUs are available
        """,
        """\
        import os
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
        import tensorflow as tf
        print(tf.config.list_physical_devices('GPU'))
        []
        E tensorflow/stream_executor/cuda/cuda_driver.cc:265] failed call to cuInit: CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected
        """,
        """\
        services:
          train:
            image: tensorflow/tensorflow:2.9.0-gpu
            environment:
              - CUDA_VISIBLE_DEVICES=-1
            deploy:
              resources:
                reservations:
                  devices:
                    - driver: nvidia
                      count: 1
                      capabilities: [gpu]
        """,
    ],
    "cuda-visible-devices-out-of-range": [
        table("535.183.01", "12.2", "NVIDIA L4")
        + """\
        export CUDA_VISIBLE_DEVICES=1
        $ python train.py
        RuntimeError: No CUDA GPUs are available
        """,
    ],
    "framework-told-not-to-use-gpu": [
        "tf.config.set_visible_devices([], 'GPU')\nprint(tf.config.list_logical_devices('GPU'))\n",
    ],
    "gpu-settings-too-late": ["RuntimeError: Physical devices cannot be modified after being initialized\n"],
    "scheduler-gave-no-gpu": [
        "$ srun --pty env | grep CUDA\nCUDA_VISIBLE_DEVICES=NoDevFiles\nRuntimeError: No CUDA GPUs are available\n",
    ],
    "colab-without-gpu": [
        """\
        Running in Google Colab
        !nvidia-smi
        RuntimeError: No CUDA GPUs are available
        Make sure you have GPU enabled in the notebook: Runtime > Change runtime type
        """,
    ],
    "other-environment": [
        """\
        $ pip list | grep tensorflow
        tensorflow    2.9.3
        $ jupyter notebook
        In [1]: import tensorflow as tf
        ModuleNotFoundError: No module named 'tensorflow'
        """,
    ],
    "python-of-the-system-is-closed": [
        "$ pip install tensorflow\nerror: externally-managed-environment\n",
    ],
    "image-requires-nonsense": ["nvidia-container-cli: requirement error: invalid expression\n"],
    "file-hides-framework": [
        "AttributeError: partially initialized module 'torch' has no attribute 'cuda' (most likely due to a circular import)\n",
    ],
    "program-of-tensorflow-1": ["AttributeError: module 'tensorflow' has no attribute 'placeholder'\n"],
    "gpu-memory-exhausted": [
        """\
        torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 23.65 GiB total capacity; 21.10 GiB already allocated;
        1.05 GiB free; 21.60 GiB reserved in total by PyTorch)
        """,
        """\
        W tensorflow/core/common_runtime/bfc_allocator.cc:462] Allocator (GPU_0_bfc) ran out of memory trying to allocate 4.50GiB requested by op Conv2D
        tensorflow.python.framework.errors_impl.ResourceExhaustedError: OOM when allocating tensor with shape[64,512,112,112]
        """,
        "RuntimeError: CUDA error:out of memory\n",
        "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8589934592 bytes.\n",
    ],
    "gpu-memory-held-by-another": [
        """\
        torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 23.65 GiB of which 9.44 MiB is free.
        Process 31415 has 22.80 GiB memory in use. Including non-PyTorch memory, this process has 840.00 MiB memory in use.
        """,
        "ValueError: Free memory on device (3.33/23.57 GiB) on startup is less than desired GPU memory utilization (0.9, 21.21 GiB).\n",
    ],
    "libraries-without-gpu-memory": [
        "UnknownError: Failed to get convolution algorithm. This is probably because cuDNN failed to initialize, so try looking to see if a warning log message was printed above.\n",
        "E tensorflow/stream_executor/cuda/cuda_blas.cc:226] failed to create cublas handle: CUBLAS_STATUS_NOT_INITIALIZED\n",
    ],
    "container-memory-exhausted": [
        "[ 9123.456789] Memory cgroup out of memory: Killed process 4242 (python3) total-vm:9000000kB, anon-rss:4190000kB\n",
    ],
    "host-memory-exhausted": [
        "RuntimeError: DataLoader worker (pid 4242) is killed by signal: Killed.\n",
        'OSError: [WinError 1455] The paging file is too small for this operation to complete. Error loading "caffe2_detectron_ops.dll"\n',
    ],
    "compute-mode-exclusive": [
        "RuntimeError: CUDA error: all CUDA-capable devices are busy or unavailable\n",
        "cudaErrorDevicesUnavailable: CUDA-capable device(s) is/are busy or unavailable\n",
    ],
    "mps-daemon-absent": [
        "RuntimeError: CUDA error: MPS client failed to connect to the MPS control daemon or the MPS server\n"
    ],
    "gpu-number-not-there": [
        "RuntimeError: CUDA error: invalid device ordinal\n",
        "RuntimeError: Attempting to deserialize object on CUDA device 2 but torch.cuda.device_count() is 1. Please use torch.load with map_location\n",
    ],
    "forked-after-cuda": [
        "RuntimeError: Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must use the 'spawn' start method\n",
    ],
    "index-out-of-range-on-gpu": [
        """\
        ../aten/src/ATen/native/cuda/Indexing.cu:1146: indexSelectLargeIndex: block: [37,0,0], thread: [64,0,0] Assertion `srcIndex < srcSelectDimSize` failed.
        RuntimeError: CUDA error: device-side assert triggered
        RuntimeError: CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`
        """,
    ],
    "illegal-memory-access": ["RuntimeError: CUDA error: an illegal memory access was encountered\n"],
    "display-watchdog": ["RuntimeError: CUDA error: the launch timed out and was terminated\n"],
    "tensors-on-two-devices": [
        "RuntimeError: Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!\n",
    ],
    "operation-without-gpu-kernel": [
        """\
        InvalidArgumentError: Cannot assign a device for operation embedding/lookup: Could not satisfy explicit device specification
        '/device:GPU:0' because no supported kernel for GPU devices is available.
        """,
    ],
    "profiler-not-permitted": [
        "E tensorflow/core/profiler/internal/gpu/cupti_tracer.cc:1666] function cupti_interface_->Subscribe failed with error CUPTI_ERROR_INSUFFICIENT_PRIVILEGES\n",
    ],
    "nccl-cannot-reach": [
        "torch.distributed.DistBackendError: NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:1970, unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.19.3\nNCCL WARN Call to connect to 10.0.0.2<43211> failed : Connection refused\n",
    ],
    "peer-access-broken": [
        "RuntimeError: CUDA error: peer access is not supported between these two devices\n"
    ],
    "nccl-two-ranks-one-gpu": [
        "NCCL WARN Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 3b000\n"
    ],
    "nccl-not-in-build": ["RuntimeError: Distributed package doesn't have NCCL built in\n"],
}
BY_FACTS_ONLY = {"cuda-visible-devices-unknown-uuid"}
ROWS = rows(CASES)


@pytest.mark.parametrize(("cause", "number", "text"), ROWS, ids=row_ids(ROWS))
def test_the_text_alone_names_the_cause(cause, number, text):
    answer = of_text(text)
    assert roots(answer)[:1] == [cause], short(answer)


@pytest.mark.parametrize(("cause", "number", "text"), ROWS, ids=row_ids(ROWS))
def test_noise_around_it_changes_nothing(cause, number, text):
    answer = of_text(NOISE_ABOVE + text + NOISE_BELOW)
    assert roots(answer)[:1] == [cause], short(answer)


def test_every_cause_of_the_application_has_a_text():
    mine = {cause.id for cause in KNOWN.causes.values() if cause.file == "application.yml"}
    assert mine - set(CASES) - BY_FACTS_ONLY == set()


def test_gpus_that_a_framework_lists_are_not_all_of_the_machine():
    answer = of_text(
        """\
        os.environ["CUDA_VISIBLE_DEVICES"] = "7, 8"
        I tensorflow/core/common_runtime/gpu/gpu_device.cc:1727] Found device 0 with properties:
        pciBusID: 0000:0d:00.0 name: GeForce GTX 1080 Ti computeCapability: 6.1
        """
    )
    assert "cuda-visible-devices-out-of-range" not in roots(answer), short(answer)
