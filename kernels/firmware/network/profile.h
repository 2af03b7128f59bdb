/* Included ahead of network.c, this makes it report the instructions of each layer. The report
 * takes instructions too, which then are part of those of the inference. */
#ifndef TFMIX_FIRMWARE_NETWORK_PROFILE_H_
#define TFMIX_FIRMWARE_NETWORK_PROFILE_H_

#include <stdint.h>

#define NETWORK_AFTER_LAYER(layer_) network_after_layer(layer_)

/* Writes the instructions since the last call, or since the beginning of the inference. */
void network_after_layer(int32_t layer);

#endif /* TFMIX_FIRMWARE_NETWORK_PROFILE_H_ */
