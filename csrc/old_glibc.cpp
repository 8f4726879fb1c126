// libstdc++'s reference counts ask glibc 2.32 whether there are threads yet. This answer, hidden in the extension, is
// that there are, and lets it load with the glibc 2.28 of older clusters, wherever it was built.
extern "C" {
extern __attribute__((visibility("hidden"))) char __libc_single_threaded;
char __libc_single_threaded = 0;
}
