#include "../activation.cu"
