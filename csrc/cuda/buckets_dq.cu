#include "buckets_dq.cuh"

#include "instances.cuh"

PK_PLAIN_KERNELS(buckets_dq, BucketsBackward, BucketsQueryShape)
