#include "../choices.cu"
