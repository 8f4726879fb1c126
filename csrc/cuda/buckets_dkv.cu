#include "buckets_dkv.cuh"

#include "instances.cuh"

PK_ALL_KERNELS(buckets_dkv, BucketsBackward, BucketsKeyShape, PK_NO_BIAS, PK_NO_BIAS)
