"""What programs say of a broken host: each text must lead to its cause, with nothing else named beside it."""

from __future__ import annotations

import pytest
from gpuready.catalog import load_catalog
from gpuready.diagnosis.engine import diagnose
from gpuready.diagnosis.knowledge import load_knowledge
from gpuready.diagnosis.reader import read

KNOWLEDGE = load_knowledge(skip_broken=True)
CATALOG = load_catalog()

TEXTS = {
    # bus
    "no-gpu-on-bus": ["NVRM: No NVIDIA GPU found."],
    "gpu-fell-off-bus": [
        "[88.1] NVRM: Xid (PCI:0000:5e:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
        "5e:00.0 3D controller: NVIDIA Corporation GV100GL [Tesla V100 PCIe 32GB] (rev ff)",
    ],
    "other-vendor-gpu-only": [
        "$ lspci | grep -Ei 'vga|3d'\n0a:00.0 VGA compatible controller: Advanced Micro Devices, Inc. Navi\n"
        "$ nvidia-smi\nNVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",
        "06:00.0 VGA compatible controller: Advanced Micro Devices, Inc. [AMD/ATI] Navi 31",
    ],
    # packages
    "apt-signed-by-conflict": [
        "E: Conflicting values set for option Signed-By regarding source "
        "https://nvidia.github.io/libnvidia-container/"
        "stable/ubuntu18.04/amd64/ /: /usr/share/keyrings/nvidia.gpg != \nE: The list of sources could "
        "not be read."
    ],
    "apt-key-missing": [
        "W: GPG error: https://developer.download.nvidia.com/compute/cuda/repos/ubuntu2004/x86_64  "
        "InRelease: The following"
        " signatures couldn't be verified because the public key is not available: NO_PUBKEY "
        "A4B469963BF863CC\n"
        "E: The repository 'https://developer.download.nvidia.com/compute/cuda/repos/ubuntu2004/x86_64  "
        "InRelease' is not signed."
    ],
    "apt-key-expired": [
        "W: GPG error: https://example.org stable InRelease: The following signatures were invalid: "
        "EXPKEYSIG DDCAE044F796ECB0 X"
    ],
    "apt-key-sha1": [
        "W: https://developer.download.nvidia.com/x InRelease: Policy will reject signature within a year\n"
        "Sub-process /usr/bin/sqv returned an error code (1), error message is: Signing key on "
        "EB693B3035CD5710E231E123A4B469963BF863CC is not bound: because: Policy rejected non-revocation "
        "signature"
    ],
    "apt-archive-of-another-release": [
        "E: The repository 'https://nvidia.github.io/libnvidia-container/ubuntu23.04/amd64  Release' "
        "does not have a Release file."
    ],
    "apt-lists-stale": [
        "Err:3 http://archive.ubuntu.com/ubuntu jammy-updates/restricted amd64 nvidia-utils-535 amd64 "
        "535.129.03-0ubuntu0.22.04.1\n"
        "  404  Not Found [IP: 91.189.91.82 80]"
    ],
    "apt-version-gone": [
        "E: Version '535.129.03-0ubuntu0.22.04.1' for 'nvidia-utils-535-server' was not found"
    ],
    "apt-package-unknown": [
        "E: Unable to locate package nvidia-headless-580-server",
        "E: Package 'nvidia-driver' has no installation candidate",
    ],
    "packages-held": ["E: Held packages were changed and -y was used without --allow-change-held-packages."],
    "driver-packages-mixed": [
        "The following packages have unmet dependencies:\n libnvidia-gl-570 : Depends: "
        "libnvidia-common-570 (= 570.86.15-0ubuntu1)"
        " but 570.133.07-0ubuntu0.22.04.1 is to be installed\nE: Unable to correct problems, you have "
        "held broken packages.",
        "dpkg: error processing archive /tmp/a.deb (--unpack):\n trying to overwrite "
        "'/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1', which is also in package "
        "libnvidia-compute-535:amd64 535.161.07",
    ],
    "dpkg-interrupted": [
        "E: dpkg was interrupted, you must manually run 'sudo dpkg --configure -a' to correct the problem."
    ],
    "apt-locked": [
        "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 2114 (unattended-upgr)\n"
        "E: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend), is another process "
        "using it?"
    ],
    "apt-without-root": [
        "E: Could not open lock file /var/lib/dpkg/lock-frontend - open (13: Permission denied)\n"
        "E: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend), are you root?"
    ],
    "apt-disk-full": [
        "dpkg: error processing archive /var/cache/apt/archives/libnvidia-compute-580.deb (--unpack):\n "
        "cannot copy extracted data"
        " for './usr/lib/libcuda.so.580' to '/usr/lib/libcuda.so.580.dpkg-new': failed to write (No "
        "space left on device)"
    ],
    "boot-partition-full": [
        "update-initramfs: Generating /boot/initrd.img-6.8.0-60-generic\nzstd: error 70 : Write error : "
        "cannot write block : "
        "No space left on device\nupdate-initramfs: failed for /boot/initrd.img-6.8.0-60-generic with 1."
    ],
    "apt-unreachable": [
        "Err:1 https://developer.download.nvidia.com/compute InRelease\n  Temporary failure resolving "
        "'developer.download.nvidia.com'"
    ],
    "clock-wrong": [
        "E: Release file for http://archive.ubuntu.com/dists/jammy/InRelease is not valid yet (invalid "
        "for another 3h 2min 1s)."
    ],
    "apt-mirror-inconsistent": [
        "E: Failed to fetch http://proxy/Packages.gz  Hash Sum mismatch",
        "W: GPG error: http://developer.download.nvidia.com/compute/cuda/repos/ubuntu1804/x86_64  Release:"
        " The following signatures were invalid: BADSIG F60F4B3D7FA2AF80 cudatools <cudatools@nvidia.com>",
    ],
    "apt-source-malformed": [
        "E: Malformed entry 1 in list file /etc/apt/sources.list.d/nvidia-docker.list (Type)\nE: The "
        "list of sources could not be read."
    ],
    "runfile-and-packages": [
        "An alternate method of installing the NVIDIA driver was detected. (This is usually a package "
        "provided by your distributor.)"
    ],
    "dpkg-database-damaged": [
        "dpkg-query: error: parsing file '/var/lib/dpkg/status' near line 99 package 'libnvidia-cfg1-580':\n"
        " field name 'Instal' must be followed by colon"
    ],
    # binding
    "nouveau-bound": [
        "NVRM: GPU 0000:01:00.0 is already bound to nouveau.",
        "modprobe: ERROR: could not insert 'nvidia': No such device\n"
        "NVRM: The NVIDIA probe routine was not called for 2 device(s).\nNVRM: This can occur when a "
        "driver such as:\n"
        "NVRM: nouveau, rivafb, nvidiafb or rivatv\nNVRM: was loaded and obtained ownership of the "
        "NVIDIA device(s).",
        "ERROR: The Nouveau kernel driver is currently in use by your system.",
    ],
    "vfio-bound": [
        "NVRM: GPU 0000:01:00.0 is already bound to vfio-pci.\n"
        "NVRM: The NVIDIA probe routine was not called for 1 device(s).\n"
        "NVRM: This can occur when another driver was loaded and\n               NVRM: obtained "
        "ownership of the NVIDIA device(s)."
    ],
    "other-driver-bound": ["NVRM: GPU 0000:01:00.0 is already bound to nvidiafb."],
    # Secure Boot
    "secure-boot-rejects-module": [
        "Title: Secure boot - installer fails\nBuilding modules\nERROR: Unable to load the kernel module"
        " 'nvidia.ko'.",
        "modprobe: ERROR: could not insert 'nvidia': Key was rejected by service",
        "modprobe: ERROR: could not insert 'nvidia_current': Required key not available\n"
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",
        "Lockdown: modprobe: unsigned module loading is restricted; see man kernel_lockdown.7",
    ],
    # module
    "driver-not-installed": [
        "Command 'nvidia-smi' not found, but can be installed with:\napt install nvidia-utils-390"
    ],
    "module-not-loaded": [
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that "
        "the latest NVIDIA driver "
        "is installed and running.",
        "Failed to initialize NVML: Driver Not Loaded",
    ],
    "module-for-another-kernel": [
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n"
        "I have installed nvidia-dkms. It works while I am running the other kernel.",
        "After a kernel upgrade the driver may stop working.\n$ nvidia-smi\n"
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n$ uname "
        "-r\n6.8.0-45-generic\n$ dkms status\n"
        "nvidia/535.183.01, 6.8.0-44-generic, x86_64: installed",
        "modprobe: ERROR: could not insert 'nvidia': Exec format error",
        "nvidia: version magic '5.15.0-91-generic SMP mod_unload ' should be '5.15.0-92-generic SMP "
        "mod_unload '",
    ],
    "kernel-headers-missing": [
        "Error! Your kernel headers for kernel 5.10.0-28-cloud-amd64 cannot be found "
        "at\n/lib/modules/5.10.0-28-cloud-amd64/build or"
        " /lib/modules/5.10.0-28-cloud-amd64/source.",
        "Module build for kernel 6.0.0-2-amd64 was skipped since the\nkernel headers for this kernel do "
        "not seem to be installed.\n"
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",
    ],
    "dkms-build-failed": [
        "Error! Bad return status for module build on kernel: 6.5.0-14-generic (x86_64)\n"
        "Consult /var/lib/dkms/nvidia/470.223.02/build/make.log for more information."
    ],
    "dkms-compiler-mismatch": [
        "Compiler version check failed:\n\nThe major and minor number of the compiler used to\ncompile "
        "the kernel:\n\ngcc version 12.3.0\n\n"
        "does not match the compiler used here:\n\ncc (Ubuntu 11.4.0) 11.4.0",
        "gcc: error: unrecognized command-line option '-ftrivial-auto-var-init=zero'\n"
        "Error! Bad return status for module build on kernel: 6.8.0-1032-aws (x86_64)",
    ],
    "dkms-kernel-too-new": [
        "/var/lib/dkms/nvidia/470.199.02/build/nvidia-drm/nvidia-drm-drv.c:748:40: error: 'DRM_UNLOCKED' "
        "undeclared here\n"
        "Error! Bad return status for module build on kernel: 6.8.0-31-generic (x86_64)",
        "FATAL: modpost: GPL-incompatible module nvidia.ko uses GPL-only symbol '__rcu_read_lock'",
    ],
    "dkms-out-of-memory": [
        "gcc: fatal error: Killed signal terminated program cc1\ncompilation terminated.\n"
        "Error! Bad return status for module build on kernel: 6.8.0-31-generic (x86_64)"
    ],
    "compiler-missing": [
        "/bin/sh: 1: gcc: not found\nError! Bad return status for module build on kernel: "
        "5.4.0-150-generic (x86_64)"
    ],
    "module-blacklisted": [
        "modprobe: ERROR: could not find module by name='off'\nmodprobe: ERROR: could not insert 'off': "
        "Unknown symbol in module"
    ],
    "kernel-ibt-stops-driver": ["traps: Missing ENDBR: _nv011433rm+0x0/0x10 [nvidia]"],
    "module-in-use": ["rmmod: ERROR: Module nvidia is in use by: nvidia_modeset nvidia_uvm"],
    "open-modules-unsupported-gpu": [
        "NVRM: The NVIDIA GPU 0000:07:00.0 (PCI ID: 10de:1b80)\nNVRM: installed in this system is not "
        "supported by open\n"
        "NVRM: nvidia.ko because it does not include the required GPU\nNVRM: System Processor (GSP).\n"
        "NVRM: None of the NVIDIA devices were initialized."
    ],
    "proprietary-modules-unsupported-gpu": [
        "NVRM: The NVIDIA GPU 0000:02:00.0 (PCI ID: 10de:2c31)\n               NVRM: installed in this "
        "system requires use of the NVIDIA"
        " open kernel modules.\nNVRM: GPU 0000:02:00.0: RmInitAdapter failed! (0x22:0x56:1017)\nNo "
        "devices were found"
    ],
    "gpu-dropped-by-branch": [
        "NVRM: The NVIDIA Quadro K2200 GPU installed in this system is\nNVRM:  supported through the "
        "NVIDIA 580.xx Legacy drivers. Please\n"
        "NVRM:  visit http://www.nvidia.com/object/unix.html for more\nNVRM:  information.  The "
        "590.44.01 NVIDIA driver will ignore\n"
        "NVRM:  this GPU.  Continuing probe...\nNVRM: No NVIDIA GPU found."
    ],
    "gpu-too-new-for-branch": [
        "NVRM: The NVIDIA GPU 0000:01:00.0 (PCI ID: 10de:2684)\nNVRM: installed in this system is not "
        "supported by the\n"
        "NVRM: NVIDIA 515.65.01 driver release.\nNVRM: Please see 'Appendix A - Supported NVIDIA GPU "
        "Products'"
    ],
    "vgpu-guest-driver-needed": ["NVRM: The NVIDIA vGPU 10de:2230 is not supported by open nvidia.ko"],
    # versions
    "driver-library-mismatch": [
        "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 535.183",
        "NVRM: API mismatch: the client has the version 550.54.14, but\n               NVRM: this kernel "
        "module has the version 545.23.08.  "
        "Please\nNVRM: make sure that this kernel module and all NVIDIA driver\nNVRM: components have "
        "the same version.",
        "NVRM: API mismatch: the client 'nvidia-smi' (pid 4711) has the version 570.133.07, but this "
        "kernel module has the version 570.86.15",
    ],
    "driver-libraries-missing": [
        "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the "
        "NVIDIA Display Driver is properly installed"
    ],
    "runfile-module-does-not-load": [
        "ERROR: Unable to load the kernel module 'nvidia.ko'. "
        " This happens most frequently when this kernel module was"
        " built against the wrong or improperly configured kernel sources, with a version of gcc that differs"
    ],
    "vgpu-licence-missing": ["        License Status                    : Unlicensed (Unrestricted)"],
    # NVML
    "adapter-init-failed": [
        "No devices were found\nNVRM: GPU 0000:13:00.0: RmInitAdapter failed! (0x26:0x56:1463)"
    ],
    "gsp-firmware-missing": [
        "nvidia 0000:01:00.0: Direct firmware load for nvidia/545.29.06/gsp_ga10x.bin failed with error "
        "-2\n"
        "NVRM: RmFetchGspRmImages: No firmware image found\nNVRM: GPU 0000:01:00.0: RmInitAdapter "
        "failed! (0x61:0x56:1697)"
    ],
    "gsp-firmware-unusable": [
        "loading /lib/firmware/nvidia/570.133.20/gsp_ga10x.bin failed with error -4\nNVRM: "
        "RmInitAdapter: Cannot initialize GSP firmware RM"
    ],
    "gpu-left-in-bad-state": [
        "NVRM: _kgspBootGspRm: unexpected WPR2 already up, cannot proceed with booting GSP\n"
        "NVRM: _kgspBootGspRm: (the GPU is likely in a bad state and may need to be reset)\n"
        "NVRM: RmInitAdapter: Cannot initialize GSP firmware RM\nNVRM: GPU 0000:a1:00.0: RmInitAdapter "
        "failed! (0x62:0x40:2168)"
    ],
    "gpu-memory-window-missing": [
        "NVRM: This PCI I/O region assigned to your NVIDIA device is invalid:\n               NVRM: BAR1 "
        "is 0M @ 0x0 (PCI:0000:14:00.0)\n"
        "nvidia: probe of 0000:14:00.0 failed with error -1\nNVRM: The NVIDIA probe routine failed for 1 "
        "device(s)."
    ],
    "gpu-without-power": [
        "NVRM: GPU 0000:13:00.0: GPU does not have the necessary power cables connected.\n"
        "NVRM: GPU 0000:13:00.0: RmInitAdapter failed! (0x24:0x1c:1447)\nNo devices were found"
    ],
    "iommu-blocks-gpu": [
        "nvidia 0000:0a:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x0001 address=0xfff0 flags=0x0020]"
    ],
    "gpu-lost": ["Unable to determine the device handle for GPU0000:01:00.0: GPU requires reset"],
    "gsp-timeout": [
        "NVRM: Xid (PCI:0000:1a:00): 119, pid=3021, name=python3, Timeout waiting for RPC from GPU0 GSP! "
        "Expected function 76"
    ],
    "gpu-memory-errors": [
        "NVRM: Xid (PCI:0000:b2:00): 48, pid=1234, name=python, An uncorrectable double bit error (DBE) "
        "has been detected on GPU",
        "NVRM: Xid (PCI:0000:b2:00): 94, pid=7194, name=train, Contained: SM (0x1). RST: No, D-RST: No",
    ],
    "nvlink-error": [
        "NVRM: Xid (PCI:0000:07:00): 74, pid='<unknown>', name=<unknown>, NVLink: fatal error detected "
        "on link 9"
    ],
    "xid-error": [
        "NVRM: Xid (PCI:0000:07:00): 62, pid=915, name=nv-hostengine, 2027(20fc) 00000000 00000000"
    ],
    "xid-application-fault": [
        "NVRM: Xid (PCI:0000:07:00): 31, pid=915, name=python3, Ch 00000008, intr 10000000. MMU Fault"
    ],
    "mig-without-instances": [
        "| MIG devices:                                                                |\n"
        "+------------------+----------------------+-----------+-----------------------+\n"
        "|  No MIG devices found                                                       |"
    ],
    "compute-mode-prohibited": ["    Compute Mode                          : Prohibited"],
    "gpu-slowed-down": ["            HW Slowdown                       : Active"],
    "inforom-corrupted": ["WARNING: infoROM is corrupted at gpu 0000:3B:00.0"],
    "persistenced-failed": [
        "nvidia-persistenced[1023]: Failed to query NVIDIA devices. Please ensure that the NVIDIA device "
        "files (/dev/nvidia*) exist"
    ],
    "driver-hangs": [
        "nvidia-container-cli: initialization error: driver rpc error: timed out: unknown",
        "Since yesterday nvidia-smi hangs and cannot be killed.",
    ],
    "jetson-has-its-own-driver": [
        "$ nvidia-smi\nbash: nvidia-smi: command not found\n$ uname -r\n5.10.104-tegra\n",
    ],
    # fabric
    "fabricmanager-version-mismatch": [
        "nv-fabricmanager[3228]: fabric manager NVIDIA GPU driver interface version 530.30.02 don't "
        "match with driver version 530.41.03."
        " Please update with matching NVIDIA driver package.\nsystemd[1]: nvidia-fabricmanager.service: "
        "Failed with result 'exit-code'."
    ],
    "fabricmanager-missing": ["Unit nvidia-fabricmanager.service could not be found."],
    "fabricmanager-not-running": [
        "systemd[1]: nvidia-fabricmanager.service: Main process exited, code=killed, status=9/KILL"
    ],
    "fabricmanager-not-needed": [
        "request to query NVSwitch device information from NVSwitch driver failed with error:WARNING "
        "Nothing to do [NV_WARN_NOTHING_TO_DO]\n"
        "systemd[1]: nvidia-fabricmanager.service: Control process exited, code=exited, status=1/FAILURE"
    ],
    # device files
    "uvm-not-loaded": ["nvidia_uvm: Unknown symbol radix_tree_preloads (err -2)"],
    "device-nodes-not-permitted": ["Failed to initialize NVML: Insufficient Permissions"],
    # WSL
    "wsl-gpu-not-available": [
        "Failed to initialize NVML: GPU access blocked by the operating system\n"
        "Failed to properly shut down NVML: GPU access blocked by the operating system",
        "ls: cannot access '/dev/dxg': No such file or directory",
    ],
    "windows-driver-not-running": [
        "'nvidia-smi' is not recognized as an internal or external command,\noperable program or batch file."
    ],
    "wsl-version-1": ["  NAME      STATE           VERSION\n* Ubuntu    Running         1"],
}
CASES = [(cause, text) for cause, texts in TEXTS.items() for text in texts]


def answer(text: str) -> dict:
    return diagnose(read(text), [("log", text)], knowledge=KNOWLEDGE, catalog=CATALOG)


def roots(result: dict) -> list[str]:
    return [row["cause"] for row in result["causes"] if row["standing"] == "root"]


@pytest.mark.parametrize(
    ("cause", "text"), CASES, ids=[f"{cause}-{number}" for number, (cause, _) in enumerate(CASES)]
)
def test_a_text_leads_to_its_cause_alone(cause, text):
    assert roots(answer(text)) == [cause]


@pytest.mark.parametrize(
    ("cause", "text"), CASES, ids=[f"{cause}-{number}" for number, (cause, _) in enumerate(CASES)]
)
def test_the_kernels_chatter_changes_nothing(cause, text):
    noise = (
        "nvidia: loading out-of-tree module taints kernel.\nnvidia: module license 'NVIDIA' taints "
        "kernel.\n"
        "nvidia: module verification failed: signature and/or required key missing - tainting kernel\n"
        "nvidia-nvlink: Nvlink Core is being initialized, major device number 237\n"
    )
    assert roots(answer(noise + text + "\n")) == [cause]


@pytest.mark.parametrize(
    "text",
    [
        "nvidia: module verification failed: signature and/or required key missing - tainting kernel",
        "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024",
        "misc dxg: dxgk: dxgkio_query_adapter_info: Ioctl failed: -22",
        "/sbin/ldconfig.real: /usr/lib/wsl/lib/libcuda.so.1 is not a symbolic link",
        "W: https://example.org: Key is stored in legacy trusted.gpg keyring (/etc/apt/trusted.gpg)",
        "warning: the compiler differs from the one used to build the kernel",
    ],
)
def test_what_healthy_machines_say_too_is_no_cause(text):
    assert roots(answer(text)) == []


def test_the_same_message_means_what_the_facts_beside_it_say():
    said = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n"
    assert roots(answer(said)) == ["module-not-loaded"]
    kernel = "$ uname -r\n6.8.0-45-generic\n"
    assert roots(
        answer(said + kernel + "$ dkms status\nnvidia/535.183.01, 6.8.0-44-generic, x86_64: installed\n")
    ) == ["module-for-another-kernel"]
    card = "01:00.0 VGA compatible controller [0300]: NVIDIA Corporation GP104 [GeForce GTX 1080] [10de:1b80]"
    lspci = "$ lspci -nnk -d 10de:\n" + card
    assert roots(answer(said + lspci + "\n\tKernel driver in use: nouveau\n")) == ["nouveau-bound"]
    assert roots(answer(said + lspci + "\n\tKernel driver in use: vfio-pci\n")) == ["vfio-bound"]
    assert roots(answer(said + "$ mokutil --sb-state\nSecureBoot enabled\n")) == [
        "secure-boot-rejects-module"
    ]


def test_a_driver_that_works_refutes_an_old_line():
    smi = (
        "$ nvidia-smi -L\nGPU 0: NVIDIA A100 80GB PCIe (UUID: GPU-3b7c2f60-9d11-7e20-4c55-0ad1f2b3c4d5)\n"
        "$ dmesg | grep NVRM\nNVRM: API mismatch: the client has the version 550.54.14, but\n"
        "NVRM: this kernel module has the version 545.23.08.\n"
    )
    assert "driver-library-mismatch" not in roots(answer(smi))
