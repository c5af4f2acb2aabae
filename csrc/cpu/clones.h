// For plain loops that the compiler vectorises: one copy per instruction set, chosen when the module is loaded. No
// contraction of multiplications and additions is allowed anywhere, so all copies give the same bits.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define SPECGROVE_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SPECGROVE_CLONES
#endif
