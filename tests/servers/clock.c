/* The clock of a private server, in the hands of a test: LD_PRELOADed, it answers with the time that stands in a
   shared page, or with the machine's and an error that stands there. Wall time only: what the server measures for itself
   is monotonic and goes on, as when somebody sets the time of a machine. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long long *page; /* microseconds: the time since the epoch, 0 = it passes; by how much it is wrong then */

__attribute__((constructor)) static void open_page(void) {
  const char *path = getenv("STREAMQ_TEST_CLOCK");
  int file = path ? open(path, O_RDONLY) : -1;
  if (file >= 0) {
    void *mapped = mmap(NULL, 2 * sizeof(long long), PROT_READ, MAP_SHARED, file, 0);
    page = mapped == MAP_FAILED ? NULL : mapped;
    close(file);
  }
}

int clock_gettime(clockid_t id, struct timespec *out) {
  int failed = (int)syscall(SYS_clock_gettime, id, out);
  if (failed == 0 && page && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
    long long now = page[0] ? page[0] : out->tv_sec * 1000000LL + out->tv_nsec / 1000 + page[1];
    out->tv_sec = now / 1000000;
    out->tv_nsec = now % 1000000 * 1000;
  }
  return failed;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
  struct timespec now;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &now);
  out->tv_sec = now.tv_sec;
  out->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *out) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out) {
    *out = now.tv_sec;
  }
  return now.tv_sec;
}

/* Valkey reads the processor's counter between two looks at the clock, where this file says that the counter is steady;
   without it every look is one at the clock. */
FILE *fopen64(const char *path, const char *mode) {
  static FILE *(*next)(const char *, const char *);
  if (!next) {
    *(void **)&next = dlsym(RTLD_NEXT, "fopen64");
  }
  return strcmp(path, "/proc/cpuinfo") == 0 ? NULL : next(path, mode);
}
