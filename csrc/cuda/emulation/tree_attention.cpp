#include "../tree_attention.cu"
