/* What a recurrent operation is made of, for tile_recurrent.h and its callers. */
#ifndef LRPFAST_RECURRENT_H
#define LRPFAST_RECURRENT_H

#include <stddef.h>

/* codes.py's Cell, ProductShare and BiasShare. */
enum lrpfast_cell { LRPFAST_SIMPLE, LRPFAST_LSTM, LRPFAST_GRU_AFTER, LRPFAST_GRU_BEFORE };
enum lrpfast_share_of_product { LRPFAST_SIGNAL, LRPFAST_HALF, LRPFAST_PROP, LRPFAST_ABS, LRPFAST_DERIVATIVE };
enum lrpfast_bias { LRPFAST_ABSORB, LRPFAST_IGNORE, LRPFAST_DISTRIBUTE, LRPFAST_SHARE };

/* An activation function of one value at a time: its number in codes.py, -1 for none, and its parameters. */
typedef struct {
    int number;
    double parameters[3];
} lrpfast_gate_function;

/* Sizes, settings and weights. Weights have a row for each feature and then each unit, and a block of `padded` columns
 * for each pre-activation: of an LSTM i, f, g, o; of a GRU z, r, and, where it resets after the product, x W_n and
 * h U_n. A GRU that resets before it has `candidate` besides, whose rows are the features and r h. */
typedef struct {
    int cell, product, bias_share, single; /* single: buffers hold floats, else doubles */
    int backwards, sequences, time_order, zero_masked, return_state;
    ptrdiff_t steps, features, units, padded, blocks;
    double epsilon;
    lrpfast_gate_function cell_function, gate_function, output_function;
    double (*evaluate)(int, double, const double *), (*slope)(int, double, const double *);
    int (*stopped)(double);
    const double *bias, *candidate_bias, *initial_h, *initial_c; /* biases block by block */
    const void *packed, *candidate, *back, *candidate_back;      /* panels; `back` of the blocks that take relevance */
} lrpfast_recurrent;

/* Buffers of the first sample: those that an operation does not have are NULL. */
typedef struct {
    const void *x, *mask, *h, *c;
    void *out, *state;
} lrpfast_recurrent_forward;
typedef struct {
    const void *x, *mask, *state, *relevance;
    void *out, *out_h, *out_c, *account;
} lrpfast_recurrent_backward;

/* Columns of the account of a step: what biases, stabilizers and zero outputs took, and what it hands to the step
 * before, ΣR and Σ|R|. */
#define LRPFAST_ACCOUNT 5

#endif
