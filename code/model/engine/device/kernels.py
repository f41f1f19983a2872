"""Triton kernels for a GPU: a few rows attending a long cached prefix, and sampling in place.

Attention is split over the prefix so that one short draft fills the chip (Dao et al. 2023,
"Flash-Decoding"): each program folds one piece of the prefix, one more program the new rows under
their mask, and a second kernel merges the pieces by their log-sum-exp. Query heads that share a key
head are rows of one tile, so keys are read once.

Shapes: T rows, N new rows, H query heads, K key/value heads, G = H/K, D head dimension,
P cached positions, S sequences, V vocabulary.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from model.engine.device.launch import DEFAULT, Launch

SMALLEST_TILE = 16  # tensor cores want so many
MOST_PIECES = 64
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
    mixed = tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
    weighted = weighted * shrink[:, None] + mixed
    return higher, total, weighted


@triton.jit
def _fold_prefix(
    q,
    cached_keys,
    cached_values,
    head,
    low,  # this piece of the prefix: rows low to high
    high,
    scaling,
    row_stride,
    head_stride,
    best,
    total,
    weighted,
    DIM: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Whole blocks of cached keys, every one of them attended."""
    dim = tl.arange(0, DIM)
    for at in range(low, high, BLOCK_N):
        column = at + tl.arange(0, BLOCK_N)
        is_key = column < high
        place = column[:, None].to(tl.int64) * row_stride + head * head_stride + dim[None, :]
        k = tl.load(cached_keys + place, mask=is_key[:, None], other=0.0)
        v = tl.load(cached_values + place, mask=is_key[:, None], other=0.0)
        best, total, weighted = _fold(
            q, k, v, is_key[None, :], scaling, best, total, weighted, PRECISION
        )
    return best, total, weighted


@triton.jit
def _sequence_of(
    tile, first_rows, GROUPS: tl.constexpr, TILE_M: tl.constexpr, SEQUENCES: tl.constexpr
):
    """Which sequence a tile belongs to, and the how manieth of its tiles it is.

    Tiles beyond the last sequence's are the last one's, behind its rows.
    """
    lane = tl.arange(0, SEQUENCES)
    first = tl.load(first_rows + lane)
    behind = tl.load(first_rows + lane + 1)
    tiles = tl.cdiv((behind - first) * GROUPS, TILE_M).to(tl.int32)
    tiles_up_to = tl.cumsum(tiles, 0)
    sequence = tl.minimum(tl.sum((tiles_up_to <= tile).to(tl.int32), 0), SEQUENCES - 1)
    tiles_before = tl.sum(tl.where(lane < sequence, tiles, 0), 0)
    return sequence, tile - tiles_before


@triton.jit(do_not_specialize=["rows", "new_rows", "pieces"])
def _attend_piece(
    query,  # [T, H, D]
    key,  # [N, K, D]
    value,
    cached_keys,  # [P, K, D], or [slots, P, K, D]
    cached_values,
    starts,  # int64 [S]: cached rows that count
    slots,  # int64 [S]
    first_rows,  # int64 [S + 1]
    mask,  # uint8 [T, N], or [T, columns]
    partial,  # float32 [pieces + 1, T, H, D]: the softmax of each piece
    logsum,  # float32 [pieces + 1, T, H]: its log-sum-exp
    rows,
    new_rows,
    pieces,
    scaling,
    query_row_stride,
    query_head_stride,
    key_row_stride,
    key_head_stride,
    value_row_stride,
    value_head_stride,
    cache_slot_stride,
    cache_row_stride,
    cache_head_stride,
    mask_row_stride,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    DIM: tl.constexpr,
    TILE_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STORE: tl.constexpr,
    PRECISION: tl.constexpr,
    SEQUENCES: tl.constexpr,  # a power of two; 0: one, which has all rows and keys
):
    # which part: a key head, a piece of the prefix (the last one: the new rows), a tile of queries
    head, piece, tile = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    dim = tl.arange(0, DIM)

    # whose: its rows, its new keys, its slot
    if SEQUENCES == 0:
        sequence, first, own_rows, own_keys = 0, 0, rows, new_rows
    else:
        sequence, tile = _sequence_of(tile, first_rows, GROUPS, TILE_M, SEQUENCES)
        first = tl.load(first_rows + sequence).to(tl.int32)
        own_rows = tl.load(first_rows + sequence + 1).to(tl.int32) - first
        own_keys = own_rows
        slot = tl.load(slots + sequence)
        cached_keys += slot * cache_slot_stride
        cached_values += slot * cache_slot_stride
    start = tl.load(starts + sequence).to(tl.int32)  # both loops must count in one type

    # the tile's queries: pairs of (row, query head of the group)
    pair = tile * TILE_M + tl.arange(0, TILE_M)
    row, query_head = first + pair // GROUPS, head * GROUPS + pair % GROUPS
    is_row = pair // GROUPS < own_rows
    query_at = row[:, None] * query_row_stride + query_head[:, None] * query_head_stride
    q = tl.load(query + query_at + dim[None, :], mask=is_row[:, None], other=0.0)

    best = tl.full([TILE_M], float("-inf"), tl.float32)
    total = tl.zeros([TILE_M], tl.float32)
    weighted = tl.zeros([TILE_M, DIM], tl.float32)
    if piece < pieces:
        span = tl.cdiv(tl.cdiv(start, pieces), BLOCK_N) * BLOCK_N
        low = piece * span
        high = tl.minimum(low + span, start)
        best, total, weighted = _fold_prefix(
            q, cached_keys, cached_values, head, low, high, scaling,
            cache_row_stride, cache_head_stride, best, total, weighted,
            DIM, BLOCK_N, PRECISION,
        )  # fmt: skip
    else:
        # the new rows, under their mask; the first tile stores them behind the prefix
        for at in tl.range(0, own_keys, BLOCK_N, num_stages=1):  # one block or two
            column = at + tl.arange(0, BLOCK_N)
            is_key = column < own_keys
            key_row = first + column[:, None]
            key_at = key_row * key_row_stride + head * key_head_stride
            value_at = key_row * value_row_stride + head * value_head_stride
            k = tl.load(key + key_at + dim[None, :], mask=is_key[:, None], other=0.0)
            v = tl.load(value + value_at + dim[None, :], mask=is_key[:, None], other=0.0)
            is_pair = is_row[:, None] & is_key[None, :]
            mask_at = row[:, None] * mask_row_stride + column[None, :]
            seen = tl.load(mask + mask_at, mask=is_pair, other=0)
            best, total, weighted = _fold(
                q, k, v, seen != 0, scaling, best, total, weighted, PRECISION
            )
            if STORE:
                if tile == 0:
                    place = (start + column)[:, None].to(tl.int64) * cache_row_stride
                    place = place + head * cache_head_stride + dim[None, :]
                    tl.store(cached_keys + place, k, mask=is_key[:, None])
                    tl.store(cached_values + place, v, mask=is_key[:, None])

    # what the merge needs: this piece's softmax and its weight; of nothing, the weight alone
    entry = (piece * rows + row) * HEADS + query_head
    filled = tl.where(total > 0, total, 1.0)
    mixed = weighted / filled[:, None]
    is_written = is_row & (total > 0)
    tl.store(partial + entry[:, None] * DIM + dim[None, :], mixed, mask=is_written[:, None])
    log_of_sum = tl.where(total > 0, best + tl.log(filled), float("-inf"))
    tl.store(logsum + entry, log_of_sum, mask=is_row)


@triton.jit
def _merge(
    partial,  # float32 [PIECES + 1, entries, D]
    logsum,  # float32 [PIECES + 1, entries]
    out,  # [entries, D]; an entry is a (row, query head)
    entries,
    first_rows,  # int64 [S + 1]: the last one ends the rows that are no padding
    HEADS: tl.constexpr,
    PIECES: tl.constexpr,
    PLACES: tl.constexpr,  # the power of two that holds PIECES + 1
    DIM: tl.constexpr,
    SEQUENCES: tl.constexpr,
):
    """Weigh the pieces of one entry by exp(log-sum-exp); padding becomes 0."""
    entry = tl.program_id(0)
    piece, dim = tl.arange(0, PLACES), tl.arange(0, DIM)
    last = PIECES
    if SEQUENCES > 0:
        used = tl.load(first_rows + SEQUENCES).to(tl.int32)
        last = tl.where(entry // HEADS < used, PIECES, -1)
    is_piece = piece <= last
    sums = tl.load(logsum + piece * entries + entry, mask=is_piece, other=float("-inf"))
    highest = tl.max(sums, 0)
    weights = tl.exp(sums - tl.where(highest == float("-inf"), 0.0, highest))
    place = (piece[:, None] * entries + entry) * DIM + dim[None, :]
    is_filled = sums > float("-inf")
    softmaxes = tl.load(partial + place, mask=is_filled[:, None], other=0.0)
    merged = tl.sum(softmaxes * weights[:, None], 0) / tl.maximum(tl.sum(weights, 0), 1e-30)
    tl.store(out + entry * DIM + dim, merged.to(out.dtype.element_ty))


@dataclass(frozen=True)
class Layout:
    """Where the rows of several sequences lie; each int64, on the device."""

    starts: torch.Tensor
    """[S]: cached rows of each."""
    slots: torch.Tensor
    """[S]: its slot of the cache."""
    first_rows: torch.Tensor
    """[S + 1]: its first row; the last entry ends all rows. S is a power of two."""


def attend(
    query_THD: torch.Tensor,
    key_NKD: torch.Tensor,
    value_NKD: torch.Tensor,
    cache: torch.Tensor,
    start: torch.Tensor,
    mask_TN: torch.Tensor,
    scaling: float,
    store: bool,
    processors: int,
) -> torch.Tensor:
    """[T, H, D]: `tree_attention` on a GPU; `processors` sizes the split of the prefix."""
    one = Layout(start, start, start)
    tile = tile_size(query_THD, key_NKD, 1, DEFAULT)
    return _attend(
        query_THD, key_NKD, value_NKD, cache[:, None], one, 0, mask_TN, scaling, store, tile,
        processors, DEFAULT,
    )  # fmt: skip


def attend_packed(
    query_THD: torch.Tensor,
    key_TKD: torch.Tensor,
    value_TKD: torch.Tensor,
    cache: torch.Tensor,
    layout: Layout,
    mask: torch.Tensor,
    scaling: float,
    processors: int,
    launch: Launch = DEFAULT,
) -> torch.Tensor:
    """[T, H, D]: `packed_attention` on a GPU."""
    sequences = len(layout.slots)
    tile = tile_size(query_THD, key_TKD, sequences, launch)
    return _attend(
        query_THD, key_TKD, value_TKD, cache, layout, sequences, mask, scaling, True, tile,
        processors, launch,
    )  # fmt: skip


def tile_size(
    query_THD: torch.Tensor, key_NKD: torch.Tensor, sequences: int, launch: Launch
) -> int:
    """(row, query head) pairs of a program, for rows spread evenly over so many sequences."""
    if query_THD.dtype == torch.float32:
        # twice the bytes and no tensor cores: a small tile keeps it in registers
        return SMALLEST_TILE
    rows, heads, _ = query_THD.shape
    pairs = triton.cdiv(rows, sequences) * (heads // key_NKD.shape[1])
    return min(launch.tile, max(SMALLEST_TILE, triton.next_power_of_2(pairs)))


def _attend(
    query_THD: torch.Tensor,
    key_NKD: torch.Tensor,
    value_NKD: torch.Tensor,
    cache: torch.Tensor,
    layout: Layout,
    sequences: int,
    mask: torch.Tensor,
    scaling: float,
    store: bool,
    tile: int,
    processors: int,
    launch: Launch,
) -> torch.Tensor:
    """Launch both kernels over a cache [2, slots, P, K, D]; 0 `sequences` as of `_attend_piece`."""
    rows, heads, dim = query_THD.shape
    new_rows, kv_heads, _ = key_NKD.shape
    device, groups = query_THD.device, heads // kv_heads
    is_fp32 = query_THD.dtype == torch.float32
    filled_tiles = triton.cdiv(rows * groups, tile)
    pieces = max(1, launch.programs * processors // (kv_heads * filled_tiles))
    pieces = min(MOST_PIECES, pieces)
    # each sequence's last tile may be filled in part
    tiles = filled_tiles + max(0, sequences - 1)
    partial = torch.empty(pieces + 1, rows, heads, dim, device=device, dtype=torch.float32)
    logsum = torch.empty(pieces + 1, rows, heads, device=device, dtype=torch.float32)
    out = torch.empty(rows, heads, dim, device=device, dtype=query_THD.dtype)
    _attend_piece[kv_heads, pieces + 1, tiles](
        query_THD,
        key_NKD,
        value_NKD,
        cache[0],
        cache[1],
        layout.starts,
        layout.slots,
        layout.first_rows,
        mask.view(torch.uint8),
        partial,
        logsum,
        rows,
        new_rows,
        pieces,
        scaling,
        *query_THD.stride()[:2],
        *key_NKD.stride()[:2],
        *value_NKD.stride()[:2],
        *cache.stride()[1:4],
        mask.stride(0),
        HEADS=heads,
        GROUPS=groups,
        DIM=dim,
        TILE_M=tile,
        BLOCK_N=launch.block,
        STORE=store,
        PRECISION="ieee" if is_fp32 else "tf32",
        SEQUENCES=sequences,
        num_warps=launch.warps,
        num_stages=stages(is_fp32, tile, launch),
    )
    places = triton.next_power_of_2(pieces + 1)
    _merge[(rows * heads,)](
        partial, logsum, out, rows * heads, layout.first_rows, heads, pieces, places, dim, sequences
    )
    return out


def stages(is_fp32: bool, tile: int, launch: Launch) -> int:
    """Blocks of keys and values on their way: as many as let two programs share a processor."""
    return launch.stages or (3 if not is_fp32 and tile < DEFAULT.tile else 2)


@triton.jit
def _sample_block(
    logits,  # [N, V]
    keys,  # int64 [N]
    temperature,  # float64 [1]
    best_score,  # float32 [N, blocks]
    best_token,  # int64 [N, blocks]
    vocabulary,
    logits_row_stride,
    BLOCK_V: tl.constexpr,
):
    """`noise.exponential` and the noisy argmax over one block of one row's vocabulary."""
    row, block = tl.program_id(0), tl.program_id(1)
    token = block * BLOCK_V + tl.arange(0, BLOCK_V)
    is_token = token < vocabulary

    # the noise of (position, token): SplitMix64, then -log(1 - b) of 32 bits b
    z = tl.load(keys + row).to(tl.uint64) + token.to(tl.uint64) * 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    bits = (z ^ (z >> 31)) & 0xFFFFFFFF
    share = (bits.to(tl.float64) + 0.5) * 2.3283064365386963e-10  # 2**-32, exact in float64
    noise = -tl.log(1.0 - share)

    # the block's best token
    place = logits + row * logits_row_stride + token
    score = tl.load(place, mask=is_token, other=float("-inf")).to(tl.float32)
    # rounded as everywhere else: a plain division is an approximate one here
    score = tl.div_rn(score, tl.load(temperature).to(tl.float32)) - tl.log(noise.to(tl.float32))
    score = tl.where(is_token, score, float("-inf"))
    entry = row * tl.num_programs(1) + block
    tl.store(best_score + entry, tl.max(score, 0))
    tl.store(best_token + entry, block * BLOCK_V + tl.argmax(score, 0))


def sample(
    logits_NV: torch.Tensor, keys_N: torch.Tensor, temperature: torch.Tensor
) -> torch.Tensor:
    """Token [N] of each row under the noise of `keys` (int64); `temperature` [1] on the device."""
    rows, vocabulary = logits_NV.shape
    blocks = triton.cdiv(vocabulary, VOCABULARY_BLOCK)
    score = torch.empty(rows, blocks, device=logits_NV.device, dtype=torch.float32)
    token = torch.empty(rows, blocks, device=logits_NV.device, dtype=torch.int64)
    _sample_block[rows, blocks](
        logits_NV,
        keys_N,
        temperature,
        score,
        token,
        vocabulary,
        logits_NV.stride(0),
        BLOCK_V=VOCABULARY_BLOCK,
    )
    best_block = score.argmax(1, keepdim=True)
    return token.gather(1, best_block)[:, 0]
