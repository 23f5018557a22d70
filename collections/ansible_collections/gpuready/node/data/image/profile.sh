# Login shells would forget the image's own PATH, and with it the framework's tools.
if [ -n "${GPUREADY_PATH:-}" ]; then
    PATH=$GPUREADY_PATH
    export PATH
fi
