/* Stands for the driver's and the runtime's libraries where there is no GPU: enough for cuDNN to plan for a device
   that is described to it (test_gpu_cudnn_real.py), and an error for everything that would need one. */

#define NONE(name) \
    int name(void) \
    { \
        return 100; /* no device */ \
    }

#ifdef DRIVER
NONE(cuGetErrorString)
NONE(cuModuleGetFunction)
NONE(cuModuleLoadData)
NONE(cuModuleUnload)
NONE(cuTensorMapEncodeIm2col)
NONE(cuTensorMapEncodeTiled)
NONE(cuLinkCreate)
NONE(cuLinkAddData)
NONE(cuLinkComplete)
NONE(cuLinkDestroy)
NONE(cuLaunchKernel)
NONE(cuLaunchKernelEx)
NONE(cuLaunchCooperativeKernel)
NONE(cuDeviceGetCount)
NONE(cuDeviceGet)
NONE(cuLibraryLoadData)
NONE(cuLibraryLoadFromFile)
NONE(cuLibraryGetKernel)
NONE(cuLibraryUnload)
NONE(cuKernelSetAttribute)
NONE(cuKernelGetAttribute)
NONE(cuKernelGetFunction)
NONE(cuOccupancyMaxPotentialClusterSize)
#else
const char *cudaGetErrorString(int error)
{
    (void)error;
    return "no GPU";
}

int cudaGetDevice(int *device)
{
    *device = 0;
    return 0;
}

int cudaDeviceGetAttribute(int *value, int attribute, int device)
{
    (void)attribute, (void)device;
    *value = 132;
    return 0;
}

int cudaGetDeviceProperties(char *properties, int device)
{
    /* major and minor in cudaDeviceProp */
    (void)device;
    *(int *)(properties + 360) = 9;
    *(int *)(properties + 364) = 0;
    return 0;
}
#endif
