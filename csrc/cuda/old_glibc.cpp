// CUDA's runtime, which is linked into this extension, calls functions that glibc 2.34 moved from libpthread, libdl
// and librt into libc, where a new version of each stands beside the old one. A linker takes the new one, and the
// extension would not load with an older glibc. The calls go to the old ones here, which every glibc has; libtorch_cpu
// brings the libraries that they were in.
#include <features.h>

#if defined(__x86_64__) && defined(__GLIBC__) && __GLIBC__ == 2 && __GLIBC_MINOR__ >= 34

#define OLDER(name, version)                                                                                        \
  asm(".symver old_" #name "," #name "@GLIBC_" version "\n.text\n.globl " #name "\n.hidden " #name "\n.type " #name \
      ",@function\n" #name ":\n\tjmp *old_" #name "@GOTPCREL(%rip)\n.size " #name ",.-" #name);
#define OLD(name) OLDER(name, "2.2.5")

// clang-format off
OLD(dlclose) OLD(dlerror) OLDER(dlmopen, "2.3.4") OLD(dlopen) OLD(dlsym) OLD(dlvsym)
OLD(pthread_condattr_setpshared) OLD(pthread_create) OLD(pthread_detach) OLD(pthread_getspecific)
OLD(pthread_join) OLD(pthread_key_create) OLD(pthread_key_delete) OLD(pthread_kill) OLD(pthread_mutex_trylock)
OLD(pthread_mutexattr_destroy) OLD(pthread_mutexattr_init) OLD(pthread_mutexattr_setpshared)
OLD(pthread_mutexattr_settype) OLD(pthread_once) OLD(pthread_rwlock_destroy) OLD(pthread_rwlock_init)
OLD(pthread_rwlock_rdlock) OLD(pthread_rwlock_timedrdlock) OLD(pthread_rwlock_timedwrlock)
OLD(pthread_rwlock_tryrdlock) OLD(pthread_rwlock_trywrlock) OLD(pthread_rwlock_unlock) OLD(pthread_rwlock_wrlock)
OLD(pthread_rwlockattr_destroy) OLD(pthread_rwlockattr_init) OLD(pthread_rwlockattr_setpshared)
OLD(pthread_setspecific) OLD(pthread_spin_destroy) OLD(pthread_spin_init) OLD(pthread_spin_lock)
OLD(pthread_spin_trylock) OLD(pthread_spin_unlock) OLD(sem_destroy) OLD(sem_init) OLD(sem_post)
OLD(sem_timedwait) OLD(sem_trywait) OLD(sem_wait) OLD(shm_open) OLD(shm_unlink)
// clang-format on

#endif

                                                extern "C" {
  extern __attribute__((visibility("hidden"))) char __libc_single_threaded;  // as in ../old_glibc.cpp
  char __libc_single_threaded = 0;
}
