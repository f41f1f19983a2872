"""Triton kernels for a GPU: a few rows attending a long cached prefix, and sampling with noise made in place.

Attention is split over the prefix so that one short draft fills the chip (Dao et al. 2023, "Flash-Decoding"): each
program folds one piece of the prefix, one more program the new rows under their mask, and a second kernel merges the
pieces by their log-sum-exp. Query heads that share a key head are rows of one tile, so keys are read once.

Shapes: T rows, N new rows, H query heads, K key/value heads, G = H/K, D head dimension, P cached positions, V vocabulary.
"""

import torch
import triton
import triton.language as tl

TILE = 64  # (row, query head) pairs of a program at most: its accumulator stays in registers
BLOCK = 64  # keys folded at a time
PROGRAMS_PER_PROCESSOR = 2
VOCABULARY_BLOCK = 4096


@triton.jit
def _fold(query, keys, values, allowed, scaling, best, total, weighted, PRECISION: tl.constexpr):
    """Online softmax: take one block of keys into the running maximum, sum and weighted values."""
    scores = tl.dot(query, tl.trans(keys), input_precision=PRECISION) * scaling
    scores = tl.where(allowed, scores, float("-inf"))
    higher = tl.maximum(best, tl.max(scores, 1))
    base = tl.where(higher == float("-inf"), 0.0, higher)
    weights = tl.exp(scores - base[:, None])
    shrink = tl.exp(best - base)
    total = total * shrink + tl.sum(weights, 1)
    weighted = weighted * shrink[:, None] + tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
    return higher, total, weighted


@triton.jit(do_not_specialize=["rows", "new_rows", "pieces"])
def _attend_piece(query, key, value, cached_keys, cached_values, start_at, mask, partial, logsum, rows, new_rows, pieces,
                  scaling, q_row, q_head, k_row, k_head, v_row, v_head, c_row, c_head, HEADS: tl.constexpr,
                  GROUPS: tl.constexpr, DIM: tl.constexpr, TILE_M: tl.constexpr, BLOCK_N: tl.constexpr,
                  STORE: tl.constexpr, PRECISION: tl.constexpr):
    head, piece, tile = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    start = tl.load(start_at).to(tl.int32)  # both loops must count in one type
    pair = tile * TILE_M + tl.arange(0, TILE_M)
    row, own_head = pair // GROUPS, head * GROUPS + pair % GROUPS
    dim, live = tl.arange(0, DIM), pair // GROUPS < rows
    q = tl.load(query + row[:, None] * q_row + own_head[:, None] * q_head + dim[None, :], mask=live[:, None], other=0.0)
    best = tl.full([TILE_M], float("-inf"), tl.float32)
    total = tl.zeros([TILE_M], tl.float32)
    weighted = tl.zeros([TILE_M, DIM], tl.float32)
    if piece < pieces:
        span = tl.cdiv(tl.cdiv(start, pieces), BLOCK_N) * BLOCK_N
        low = piece * span
        high = tl.minimum(low + span, start)
        for at in range(low, high, BLOCK_N):
            column = at + tl.arange(0, BLOCK_N)
            there = column < high
            place = column[:, None].to(tl.int64) * c_row + head * c_head + dim[None, :]
            k = tl.load(cached_keys + place, mask=there[:, None], other=0.0)
            v = tl.load(cached_values + place, mask=there[:, None], other=0.0)
            best, total, weighted = _fold(q, k, v, there[None, :], scaling, best, total, weighted, PRECISION)
    else:
        for at in range(0, new_rows, BLOCK_N):
            column = at + tl.arange(0, BLOCK_N)
            there = column < new_rows
            k = tl.load(key + column[:, None] * k_row + head * k_head + dim[None, :], mask=there[:, None], other=0.0)
            v = tl.load(value + column[:, None] * v_row + head * v_head + dim[None, :], mask=there[:, None], other=0.0)
            seen = tl.load(mask + row[:, None] * new_rows + column[None, :], mask=live[:, None] & there[None, :], other=0)
            best, total, weighted = _fold(q, k, v, seen != 0, scaling, best, total, weighted, PRECISION)
            if STORE:
                if tile == 0:
                    place = (start + column)[:, None].to(tl.int64) * c_row + head * c_head + dim[None, :]
                    tl.store(cached_keys + place, k, mask=there[:, None])
                    tl.store(cached_values + place, v, mask=there[:, None])
    entry = (piece * rows + row) * HEADS + own_head
    filled = tl.where(total > 0, total, 1.0)
    tl.store(partial + entry[:, None] * DIM + dim[None, :], weighted / filled[:, None], mask=live[:, None])
    tl.store(logsum + entry, tl.where(total > 0, best + tl.log(filled), float("-inf")), mask=live)


@triton.jit
def _merge(partial, logsum, out, entries, PIECES: tl.constexpr, SLOTS: tl.constexpr, DIM: tl.constexpr):
    """Weigh the pieces of one (row, head) by exp(log-sum-exp); SLOTS is the power of two that holds PIECES + 1."""
    entry = tl.program_id(0)
    piece, dim = tl.arange(0, SLOTS), tl.arange(0, DIM)
    there = piece <= PIECES
    sums = tl.load(logsum + piece * entries + entry, mask=there, other=float("-inf"))
    highest = tl.max(sums, 0)
    weights = tl.exp(sums - tl.where(highest == float("-inf"), 0.0, highest))
    pieces = tl.load(partial + (piece[:, None] * entries + entry) * DIM + dim[None, :], mask=there[:, None], other=0.0)
    merged = tl.sum(pieces * weights[:, None], 0) / tl.maximum(tl.sum(weights, 0), 1e-30)
    tl.store(out + entry * DIM + dim, merged.to(out.dtype.element_ty))


def attend(query_THD: torch.Tensor, key_NKD: torch.Tensor, value_NKD: torch.Tensor, cache: torch.Tensor,
           start: torch.Tensor, mask_TN: torch.Tensor, scaling: float, store: bool, processors: int) -> torch.Tensor:
    """[T, H, D]: each row over the first `start` (int64 [1], on the device) rows of `cache` [2, P, K, D] and, under its
    mask, the new rows, which are stored behind them if `store`. `processors` sizes the split."""
    rows, heads, dim = query_THD.shape
    new_rows, kv_heads, _ = key_NKD.shape
    groups = heads // kv_heads
    wide = query_THD.dtype == torch.float32  # twice the bytes, no tensor cores: a small tile keeps it in registers
    tile = 16 if wide else min(TILE, max(16, triton.next_power_of_2(rows * groups)))  # tensor cores want 16 rows
    tiles = triton.cdiv(rows * groups, tile)
    pieces = min(64, max(1, PROGRAMS_PER_PROCESSOR * processors // (kv_heads * tiles)))
    partial = torch.empty(pieces + 1, rows, heads, dim, device=query_THD.device, dtype=torch.float32)
    logsum = torch.empty(pieces + 1, rows, heads, device=query_THD.device, dtype=torch.float32)
    # blocks of keys and values on their way, as many as let two programs share a multiprocessor's memory
    stages = 1 if wide or not store else 2 if tile == TILE else 3
    out = torch.empty(rows, heads, dim, device=query_THD.device, dtype=query_THD.dtype)
    strides = [n for x in (query_THD, key_NKD, value_NKD) for n in x.stride()[:2]]
    _attend_piece[kv_heads, pieces + 1, tiles](
        query_THD, key_NKD, value_NKD, cache[0], cache[1], start, mask_TN.view(torch.uint8), partial, logsum, rows,
        new_rows, pieces, scaling, *strides, cache.stride(1), cache.stride(2), heads, groups, dim, tile, BLOCK, store,
        "ieee" if wide else "tf32", num_warps=4, num_stages=stages)
    _merge[(rows * heads,)](partial, logsum, out, rows * heads, pieces, triton.next_power_of_2(pieces + 1), dim)
    return out


@triton.jit
def _sample_block(logits, keys, temperature, best_score, best_token, vocabulary, l_row, BLOCK_V: tl.constexpr):
    """`sampling.PositionNoise.exponential` and the noisy argmax over one block of one row's vocabulary."""
    row, block = tl.program_id(0), tl.program_id(1)
    token = block * BLOCK_V + tl.arange(0, BLOCK_V)
    there = token < vocabulary
    z = tl.load(keys + row).to(tl.uint64) + token.to(tl.uint64) * 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    bits = (z ^ (z >> 31)) & 0xFFFFFFFF
    noise = -tl.log(1.0 - (bits.to(tl.float64) + 0.5) * 2.3283064365386963e-10)  # 2**-32, exact in double precision
    score = tl.load(logits + row * l_row + token, mask=there, other=float("-inf")).to(tl.float32)
    score = score / tl.load(temperature).to(tl.float32) - tl.log(noise.to(tl.float32))
    score = tl.where(there, score, float("-inf"))
    place = row * tl.num_programs(1) + block
    tl.store(best_score + place, tl.max(score, 0))
    tl.store(best_token + place, block * BLOCK_V + tl.argmax(score, 0))


def sample(logits_NV: torch.Tensor, keys_N: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """Token [N] of each row under the noise of `keys` (int64, `PositionNoise.keys`); `temperature` [1] on the device."""
    rows, vocabulary = logits_NV.shape
    blocks = triton.cdiv(vocabulary, VOCABULARY_BLOCK)
    score = torch.empty(rows, blocks, device=logits_NV.device, dtype=torch.float32)
    token = torch.empty(rows, blocks, device=logits_NV.device, dtype=torch.int64)
    _sample_block[rows, blocks](logits_NV, keys_N, temperature, score, token, vocabulary, logits_NV.stride(0),
                                VOCABULARY_BLOCK)
    return token.gather(1, score.argmax(1, keepdim=True))[:, 0]
