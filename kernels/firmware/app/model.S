/* The model file in flash: from `model` to `model_end`. MODEL_FILE is its path, in quotes. The file
 * begins at a multiple of 16, as its constants expect. */
    .syntax unified
    .section .rodata.model, "a"
    .balign 16
    .global model
model:
    .incbin MODEL_FILE
    .global model_end
model_end:
