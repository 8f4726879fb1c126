#include "buckets_dkv.cuh"

#include "instances.cuh"

PK_PLAIN_KERNELS(buckets_dkv, BucketsBackward, BucketsKeyShape)
