/* Whether this CPU and its system support a kernel level. Built for the baseline of the architecture. */
#define EXPORT __attribute__((visibility("default")))

#ifdef __x86_64__
EXPORT int avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

EXPORT int avx512(void) {
    return avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
}

EXPORT int avx512bf16(void) { return avx512() && __builtin_cpu_supports("avx512bf16"); }
#endif

#ifdef __aarch64__
EXPORT int neon(void) { return 1; } /* part of every aarch64 CPU */
#endif
