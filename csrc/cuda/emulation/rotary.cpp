#include "../rotary.cu"
