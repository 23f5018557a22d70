"""Root causes of the framework from text alone: what people paste, retyped from the programs' formats.

Own host names and paths; nothing here is anybody's report. Each text is tried as it is, and in the middle of noise.
"""

from __future__ import annotations

import pytest
from told import KNOWN, of_text, roots, row_ids, rows, short

NOISE_ABOVE = """\
Hi all, I have been at this for two days, any help is welcome!
2024-05-02 08:11:29.100222: I tensorflow/core/util/port.cc:113] oneDNN custom operations are on. You may see slightly different numerical results due to floating-point round-off errors from different computation orders.
2024-05-02 08:11:29.512000: E external/local_xla/xla/stream_executor/cuda/cuda_fft.cc:479] Unable to register cuFFT factory: Attempting to register factory for plugin cuFFT when one has already been registered
2024-05-02 08:11:30.000100: W tensorflow/compiler/tf2tensorrt/utils/py_utils.cc:38] TF-TRT Warning: Could not find TensorRT
"""
NOISE_BELOW = """\
2024-05-02 08:11:31.702210: I tensorflow/core/platform/cpu_feature_guard.cc:182] This TensorFlow binary is optimized to use available CPU instructions in performance-critical operations.
2024-05-02 08:11:32.004100: I tensorflow/stream_executor/cuda/cuda_gpu_executor.cc:975] successful NUMA node read from SysFS had negative value (-1), but there must be at least one NUMA node, so returning NUMA node zero
Thanks in advance
"""

TF_210 = "W tensorflow/stream_executor/platform/default/dso_loader.cc:64] Could not load dynamic library"
TABLE = """\
        $ nvidia-smi
        Thu May  2 08:01:10 2024
        +---------------------------------------------------------------------------------------+
        | NVIDIA-SMI {driver}             Driver Version: {driver}   CUDA Version: {cuda}     |
        |-----------------------------------------+----------------------+----------------------+
        | GPU  Name                 Persistence-M | Bus-Id        Disp.A | Volatile Uncorr. ECC |
        | Fan  Temp   Perf          Pwr:Usage/Cap |         Memory-Usage | GPU-Util  Compute M. |
        |=========================================+======================+======================|
        |   0  {name:<27}    Off  | 00000000:01:00.0 Off |                  N/A |
        |  0%   41C    P8              14W / 350W |    {used}MiB / {total}MiB |      0%      Default |
        +-----------------------------------------+----------------------+----------------------+
"""


def table(driver: str, cuda: str, name: str, used: int = 11, total: int = 24576) -> str:
    return TABLE.format(driver=driver, cuda=cuda, name=name, used=used, total=total)


CASES = {
    "driver-below-floor": [
        """\
        >>> import torch; torch.zeros(1).cuda()
        RuntimeError: The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by downloading
        and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx
        """,
        """\
        File "/srv/app/serve.py", line 12, in <module>
        tensorflow.python.framework.errors_impl.InternalError: cudaGetDevice() failed. Status: CUDA driver version is insufficient for CUDA runtime version
        """
        + table("390.77", "9.1", "GeForce GTX 1060"),
        table("470.182.03", "11.4", "Tesla T4")
        + """\
        $ python -c "import torch; print(torch.__version__, torch.version.cuda, torch.cuda.is_available())"
        2.1.2+cu121 12.1 False
        """,
    ],
    "driver-below-ptx": [
        """\
        RuntimeError: CUDA error: the provided PTX was compiled with an unsupported toolchain.
        CUDA kernel errors might be asynchronously reported at some other API call
        """,
        """\
        terminate called after throwing an instance of 'thrust::system::system_error'
          what():  CUDA_ERROR_UNSUPPORTED_PTX_VERSION
        """,
    ],
    "compat-library-unsupported": [
        """\
        UserWarning: CUDA initialization: Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before
        calling NumCudaDevices() that might have already set an error? Error 804: forward compatibility was attempted on non
        supported HW (Triggered internally at ../c10/cuda/CUDAFunctions.cpp:108.)
        False
        """,
    ],
    "torch-cpu-build": [
        """\
          File "/opt/venv/lib/python3.10/site-packages/torch/cuda/__init__.py", line 239, in _lazy_init
            raise AssertionError("Torch not compiled with CUDA enabled")
        AssertionError: Torch not compiled with CUDA enabled
        """,
        """\
        >>> torch.__version__
        '2.3.0+cpu'
        >>> torch.cuda.is_available()
        False
        """,
        """\
        Collecting environment information...
        PyTorch version: 2.1.0+cpu
        Is debug build: False
        CUDA used to build PyTorch: Could not collect
        OS: Ubuntu 22.04.3 LTS (x86_64)
        Is CUDA available: False
        """,
    ],
    "tensorflow-cpu-build": [
        """\
        $ pip list | grep tensorflow
        tensorflow-cpu               2.10.0
        tensorflow-estimator         2.10.0
        $ python -c "import tensorflow as tf; print(tf.config.list_physical_devices('GPU'))"
        []
        """,
        """\
        >>> tf.test.is_built_with_cuda()
        False
        """,
    ],
    "tensorflow-on-windows": [
        """\
        OS: Windows 11
        C:\\Users\\me> python -c "import tensorflow as tf; print(tf.__version__); print(tf.config.list_physical_devices('GPU'))"
        2.15.0
        []
        """,
    ],
    "tensorflow-gpu-package-gone": [
        """\
              =========================================================
              The "tensorflow-gpu" package has been removed!

              Please install "tensorflow" instead.
        error: subprocess-exited-with-error
        """,
    ],
    "rocm-build": [
        """\
        torch 2.3.1+rocm6.0
        RuntimeError: No HIP GPUs are available
        """,
    ],
    "tensorflow-pip-without-cuda": [
        """\
        $ pip install tensorflow==2.17.0
        $ python3 -c "import tensorflow as tf; print(tf.config.list_physical_devices('GPU'))"
        2024-08-01 10:00:00.100000: I external/local_tsl/tsl/cuda/cudart_stub.cc:32] Could not find cuda drivers on your machine, GPU will not be used.
        2024-08-01 10:00:01.200000: W tensorflow/core/common_runtime/gpu/gpu_device.cc:2343] Cannot dlopen some GPU libraries. Please make sure the missing libraries mentioned above are installed properly if you would like to use GPU.
        Skipping registering GPU devices...
        []
        """,
        "WARNING: tensorflow 2.12.0 does not provide the extra 'and-cuda'\n",
    ],
    "tensorflow-cuda-libraries-missing": [
        f"""\
        2021-03-01 09:00:00.000001: {TF_210} 'libcudart.so.11.0'; dlerror: libcudart.so.11.0: cannot open shared object file: No such file or directory
        2021-03-01 09:00:00.000002: {TF_210} 'libcublas.so.11'; dlerror: libcublas.so.11: cannot open shared object file: No such file or directory
        2021-03-01 09:00:00.000003: {TF_210} 'libcudnn.so.8'; dlerror: libcudnn.so.8: cannot open shared object file: No such file or directory
        2021-03-01 09:00:00.000004: W tensorflow/core/common_runtime/gpu/gpu_device.cc:1757] Cannot dlopen some GPU libraries.
        """,
        f"""\
        2020-12-29 12:00:00.000001: {TF_210} 'cudart64_110.dll'; dlerror: cudart64_110.dll not found
        2020-12-29 12:00:00.000002: I tensorflow/stream_executor/cuda/cudart_stub.cc:29] Ignore above cudart dlerror if you do not have a GPU set up on your machine.
        """,
        """\
          File "/opt/conda/lib/python3.6/site-packages/tensorflow/python/pywrap_tensorflow_internal.py", line 28, in <module>
        ImportError: libcublas.so.9.0: cannot open shared object file: No such file or directory

        Failed to load the native TensorFlow runtime.
        """,
    ],
    "tensorflow-does-not-find-its-wheels": [
        """\
        $ pip install "tensorflow[and-cuda]==2.16.1"
        $ pip list | grep -E "tensorflow|nvidia-cudnn"
        nvidia-cudnn-cu12    8.9.7.29
        tensorflow           2.16.1
        $ python3 -c "import tensorflow as tf; print(tf.config.list_physical_devices('GPU'))"
        2024-03-20 10:00:01.200000: W tensorflow/core/common_runtime/gpu/gpu_device.cc:2251] Cannot dlopen some GPU libraries.
        Skipping registering GPU devices...
        []
        """,
    ],
    "cudnn-missing": [
        f"""\
        2022-07-01 09:00:00.000001: I tensorflow/stream_executor/platform/default/dso_loader.cc:53] Successfully opened dynamic library libcudart.so.11.0
        2022-07-01 09:00:00.000003: {TF_210} 'libcudnn.so.8'; dlerror: libcudnn.so.8: cannot open shared object file: No such file or directory; LD_LIBRARY_PATH: /usr/local/nvidia/lib:/usr/local/nvidia/lib64
        2022-07-01 09:00:00.000004: W tensorflow/core/common_runtime/gpu/gpu_device.cc:1850] Cannot dlopen some GPU libraries.
        """,
        """\
        Could not load library libcudnn_ops_infer.so.8. Error: libcudnn_ops_infer.so.8: cannot open shared object file: No such file or directory
        Please make sure libcudnn_ops_infer.so.8 is in your library path!
        Aborted (core dumped)
        """,
        "ImportError: libcudnn.so.9: cannot open shared object file: No such file or directory\n",
    ],
    "cudnn-older-than-build": [
        """\
        E tensorflow/stream_executor/cuda/cuda_dnn.cc:359] Loaded runtime CuDNN library: 8.0.5 but source was compiled with: 8.1.0.  CuDNN library needs to have matching major version and equal or higher minor version.
        UNIMPLEMENTED: DNN library is not found.
        """,
        "RuntimeError: cuDNN version incompatibility: PyTorch was compiled  against (8, 5, 0) but linked against (8, 2, 1)\n",
    ],
    "cudnn-two-copies": ["RuntimeError: cuDNN error: CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH\n"],
    "cudnn-helper-library-missing": [
        """\
        Could not load library libcudnn_cnn_infer.so.8. Error: libnvrtc.so: cannot open shared object file: No such file or directory
        Aborted (core dumped)
        """,
    ],
    "library-path-shadows-wheels": [
        """\
        $ echo $LD_LIBRARY_PATH
        /usr/local/cuda-12.1/lib64:
        ImportError: /srv/venv/lib/python3.11/site-packages/torch/lib/../../nvidia/cusparse/lib/libcusparse.so.12: undefined symbol: __nvJitLinkComplete_12_4, version libnvJitLink.so.12
        """,
    ],
    "nvidia-wheels-disagree": [
        """\
        $ pip list | grep -i nvidia
        nvidia-cublas-cu12       12.4.5.8
        nvidia-cudnn-cu11        8.9.6.50
        nvidia-cudnn-cu12        9.1.0.70
        RuntimeError: cuDNN error: CUDNN_STATUS_NOT_INITIALIZED
        """,
    ],
    "cuda-library-missing": [
        "ImportError: libcudart.so.11.0: cannot open shared object file: No such file or directory\n",
        """\
        /opt/tool/bin/render: error while loading shared libraries: libcublasLt.so.12: cannot open shared object file: No such file or directory
        """,
        "RuntimeError: Library libcublas.so.12 is not found or cannot be loaded\n",
    ],
    "onnxruntime-without-cuda": [
        """\
        UserWarning: Specified provider 'CUDAExecutionProvider' is not in available provider names.Available providers: 'AzureExecutionProvider, CPUExecutionProvider'
        """,
        """\
        $ pip list | grep onnx
        onnx                1.15.0
        onnxruntime         1.17.1
        >>> onnxruntime.get_available_providers()
        ['AzureExecutionProvider', 'CPUExecutionProvider']
        """,
    ],
    "onnxruntime-twice": [
        """\
        $ pip list | grep onnx
        onnxruntime         1.20.1
        onnxruntime-gpu     1.20.1
        UserWarning: Specified provider 'CUDAExecutionProvider' is not in available provider names.
        """,
    ],
    "onnxruntime-libraries-missing": [
        """\
        2024-03-27 06:33:23.219728338 [E:onnxruntime:Default, provider_bridge_ort.cc:1548 TryGetProviderInfo_CUDA] /onnxruntime_src/onnxruntime/core/session/provider_bridge_ort.cc:1209 onnxruntime::Provider& onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library libonnxruntime_providers_cuda.so with error: libcublasLt.so.11: cannot open shared object file: No such file or directory
        2024-03-27 06:33:23.219759101 [W:onnxruntime:Default, onnxruntime_pybind_state.cc:861 CreateExecutionProviderInstance] Failed to create CUDAExecutionProvider.
        """,
    ],
    "jax-without-cuda": [
        """\
        $ pip list | grep jax
        jax        0.4.30
        jaxlib     0.4.30
        WARNING:2024-07-27 20:22:28,949:jax._src.xla_bridge:966: An NVIDIA GPU may be present on this machine, but a CUDA-enabled jaxlib is not installed. Falling back to cpu.
        """,
        "WARNING:absl:No GPU/TPU found, falling back to CPU. (Set TF_CPP_MIN_LOG_LEVEL=0 and rerun for more info.)\n",
    ],
    "jax-versions-disagree": [
        """\
        RuntimeError: jaxlib version 0.4.30 is newer than and incompatible with jax version 0.4.25. Please update your jax and/or jaxlib packages.
        """,
        """\
        jax_cuda12_plugin version 0.4.31 is installed, but it is not compatible with the installed jaxlib version 0.4.34, so it will not be used.
        An NVIDIA GPU may be present on this machine, but a CUDA-enabled jaxlib is not installed. Falling back to cpu.
        """,
    ],
    "jax-cuda-libraries": [
        """\
        ERROR:2024-05-28 18:06:26,600:jax._src.xla_bridge:444: Jax plugin configuration error: Exception when calling jax_plugins.xla_cuda12.initialize()
        RuntimeError: Unable to load cuSPARSE. Is it installed?
        An NVIDIA GPU may be present on this machine, but a CUDA-enabled jaxlib is not installed. Falling back to cpu.
        """,
    ],
    "xla-without-toolkit": [
        """\
        W tensorflow/compiler/xla/service/gpu/nvptx_helper.cc:56] Can't find libdevice directory ${CUDA_DIR}/nvvm/libdevice. This may result in compilation or runtime failures
        W tensorflow/core/framework/op_kernel.cc:1830] OP_REQUIRES failed at xla_ops.cc:362 : INTERNAL: libdevice not found at ./libdevice.10.bc
        """,
    ],
    "cuda-toolkit-absent-for-build": [
        "OSError: CUDA_HOME environment variable is not set. Please set it to your CUDA install root.\n",
    ],
    "cuda-toolkit-other-than-torch": [
        """\
        RuntimeError:
        The detected CUDA version (12.4) mismatches the version that was used to compile
        PyTorch (11.8). Please make sure to use the same CUDA versions.
        """,
    ],
    "library-without-cuda": [
        "cv2.error: OpenCV(4.5.5) /io/opencv/modules/dnn/src/dnn.cpp: error: (-216:No CUDA support) The library is compiled without CUDA support in function 'throw_no_cuda'\n",
        "ValueError: This CTranslate2 package was not compiled with CUDA support\n",
    ],
    "nvcc-does-not-know-gpu": [
        "nvcc fatal   : Unsupported gpu architecture 'compute_89'\nninja: build stopped: subcommand failed.\n"
    ],
    "host-compiler-too-new": [
        "/usr/local/cuda/include/crt/host_config.h:132:2: error: #error -- unsupported GNU version! gcc versions later than 10 are not supported!\n"
    ],
    "extension-of-another-torch": [
        """\
        ImportError: /opt/venv/lib/python3.10/site-packages/flash_attn_2_cuda.cpython-310-x86_64-linux-gnu.so: undefined symbol: _ZN3c104cuda9SetDeviceEi
        """,
        "ImportError: libtorch_cuda_cpp.so: cannot open shared object file: No such file or directory\n",
    ],
    "extension-without-cuda": [
        """\
        NotImplementedError: Could not run 'torchvision::nms' with arguments from the 'CUDA' backend. This could be because the operator doesn't exist for this backend
        """,
    ],
    "libcuda-link-missing": [
        "AssertionError: libcuda.so cannot found!\n",
        "/usr/bin/ld: cannot find -lcuda: No such file or directory\ncollect2: error: ld returned 1 exit status\n",
    ],
    "triton-without-compiler": [
        "RuntimeError: Failed to find C compiler. Please specify via CC environment variable.\n"
    ],
    "bitsandbytes-without-cuda": [
        "The installed version of bitsandbytes was compiled without GPU support. 8-bit optimizers, 8-bit multiplication, and GPU quantization are unavailable.\n",
    ],
    "numpy-other-abi": [
        """\
        A module that was compiled using NumPy 1.x cannot be run in
        NumPy 2.0.1 as it may crash. To support both 1.x and 2.x
        versions of NumPy, modules must be compiled with NumPy 2.0.
        """,
        "AttributeError: module 'numpy' has no attribute 'object'.\n",
    ],
    "protobuf-too-new": [
        "TypeError: Descriptors cannot not be created directly.\nIf this call came from a _pb2.py file, your generated code is out of date\n",
    ],
    "base-system-too-old": [
        "ImportError: /lib64/libm.so.6: version `GLIBC_2.29' not found (required by /opt/venv/lib/python3.8/site-packages/tensorflow/libtensorflow_framework.so.2)\n",
    ],
    "cpu-without-avx": [
        "F tensorflow/core/platform/cpu_feature_guard.cc:37] The TensorFlow library was compiled to use AVX instructions, but these aren't available on your machine.\nAborted (core dumped)\n",
    ],
    "windows-runtime-missing": [
        "ImportError: DLL load failed while importing _pywrap_tensorflow_internal: The specified module could not be found.\n\nFailed to load the native TensorFlow runtime.\n",
    ],
    "no-wheel-for-this-python": [
        """\
        $ pip install tensorflow==2.9.0
        ERROR: Could not find a version that satisfies the requirement tensorflow==2.9.0 (from versions: 2.16.1, 2.16.2, 2.17.0)
        ERROR: No matching distribution found for tensorflow==2.9.0
        """,
    ],
    "conda-sees-no-driver": [
        "LibMambaUnsatisfiableError: Encountered problems while solving:\n  - nothing provides __cuda needed by pytorch-2.4.0-cuda120_py311h\n",
    ],
    "gpu-newer-than-build": [
        """\
        NVIDIA GeForce RTX 5090 with CUDA capability sm_120 is not compatible with the current PyTorch installation.
        The current PyTorch install supports CUDA capabilities sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90.
        RuntimeError: CUDA error: no kernel image is available for execution on the device
        """,
        """\
        I0000 00:00:1747 gpu_device.cc:2019] Created device /job:localhost/replica:0/task:0/device:GPU:0 with 29711 MB memory:  -> device: 0, name: NVIDIA GeForce RTX 5080, pci bus id: 0000:01:00.0, compute capability: 12.0
        W tensorflow/core/framework/op_kernel.cc:1857] OP_REQUIRES failed at cwise_op_gpu_base.cc:174 : INTERNAL: 'cuLaunchKernel(function, gridX)' failed with 'CUDA_ERROR_INVALID_HANDLE'
        error: Failed call to cuModuleLoadData: CUDA_ERROR_INVALID_PTX: a PTX JIT compilation failed
        """,
        """\
        TensorFlow was not built with CUDA kernel binaries compatible with compute capability 12.0. CUDA kernels will be jit-compiled from PTX, which could take 30 minutes or longer.
        InternalError: 'cuLaunchKernel(function, gridX, gridY, gridZ)' failed with 'CUDA_ERROR_INVALID_HANDLE'
        """,
        table("570.86.16", "12.8", "NVIDIA GeForce RTX 5070 Ti")
        + """\
        >>> torch.__version__
        '2.5.1+cu124'
        RuntimeError: CUDA error: no kernel image is available for execution on the device
        """,
    ],
    "gpu-older-than-build": [
        """\
        UserWarning:
            Found GPU0 GeForce GT 730 which is of cuda capability 3.5.
            PyTorch no longer supports this GPU because it is too old.
            The minimum cuda capability supported by this library is 3.7.
        """,
        table("580.95.05", "13.0", "NVIDIA GeForce GTX 1080 Ti")
        + """\
        torch 2.11.0+cu130
        torch.AcceleratorError: CUDA error: no kernel image is available for execution on the device
        """,
        """\
        Ignoring visible gpu device (device: 0, name: GeForce GTX 780M, pci bus id: 0000:01:00.0, compute capability: 3.0) with Cuda compute capability 3.0. The minimum required Cuda capability is 3.5.
        """,
    ],
    "extension-without-architecture": [
        table("550.54.14", "12.4", "NVIDIA L4")
        + """\
        >>> torch.__version__
        '2.4.1+cu121'
        >>> torch.randn(2, device='cuda')
        tensor([0.3, 0.1], device='cuda:0')
          File "/opt/venv/lib/python3.10/site-packages/pointnet2_ops/pointnet2_utils.py", line 54, in forward
        RuntimeError: CUDA error: no kernel image is available for execution on the device
        """,
    ],
    "gpu-left-out-as-too-small": [
        """\
        Ignoring visible gpu device (device: 1, name: Quadro K620, pci bus id: 0000:04:00.0, compute capability: 5.0) with core count: 3. The minimum required count is 8. You can adjust this requirement with the env var TF_MIN_GPU_MULTIPROCESSOR_COUNT.
        """,
    ],
    "no-cuda-on-mac": [
        """\
        platform: macOS-14.5-arm64-arm-64bit
        me@MacBook-Pro ~ % python train.py --device cuda
        AssertionError: Torch not compiled with CUDA enabled
        """,
    ],
}
#: Told by facts of a container that a text does not have: test_framework_facts.py.
BY_FACTS_ONLY = {"image-without-cuda", "ld-library-path-overridden"}
ROWS = rows(CASES)


@pytest.mark.parametrize(("cause", "number", "text"), ROWS, ids=row_ids(ROWS))
def test_the_text_alone_names_the_cause(cause, number, text):
    answer = of_text(text)
    assert roots(answer)[:1] == [cause], short(answer)


@pytest.mark.parametrize(("cause", "number", "text"), ROWS, ids=row_ids(ROWS))
def test_noise_around_it_changes_nothing(cause, number, text):
    answer = of_text(NOISE_ABOVE + text + NOISE_BELOW)
    assert roots(answer)[:1] == [cause], short(answer)


def test_every_cause_of_the_framework_has_a_text():
    mine = {cause.id for cause in KNOWN.causes.values() if cause.file == "framework.yml"}
    assert mine - {name for name, texts in CASES.items() if texts} - BY_FACTS_ONLY == set()


@pytest.mark.parametrize(
    "text",
    [
        NOISE_ABOVE + NOISE_BELOW,
        "Could not load dynamic library 'libnvinfer.so.7'; dlerror: libnvinfer.so.7: cannot open shared object file\n",
        "TensorFlow was not built with CUDA kernel binaries compatible with compute capability 8.6. CUDA kernels will be "
        "jit-compiled from PTX, which could take 30 minutes or longer.\n",
        "Unable to initialize backend 'rocm': NOT_FOUND: Could not find registered platform with name: \"rocm\"\n",
        "All log messages before absl::InitializeLog() is called are written to STDERR\n",
        "W tensorflow/core/common_runtime/bfc_allocator.cc:290] Allocator (GPU_0_bfc) ran out of memory trying to allocate 2.20GiB with freed_by_count=0. "
        "The caller indicates that this is not a failure, but this may mean that there could be performance gains.\n",
    ],
)
def test_what_healthy_programs_print_is_no_cause(text):
    answer = of_text(text)
    assert roots(answer) == [], short(answer)
