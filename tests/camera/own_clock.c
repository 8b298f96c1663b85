/* The drill's producer as a camera with a clock of its own: picture n carries the time for which it was planned, so
 * that a process that stands still takes it late, yet reads a true stamp. OWN_CLOCK_TICK_NS says what one count of
 * that clock is; where it is not 1, the stamps call themselves ns and are none. */
#define DSGetBufferInfo plain_buffer_info
#include "producer.c"
#undef DSGetBufferInfo

#define AHEAD_NS 5000000000000ULL /* of the host's clock */

API gc_err DSGetBufferInfo(handle stream, handle h, int32_t cmd, int32_t *type, void *out, size_t *size) {
    static uint64_t first_id, first_ns;
    const struct buffer *b = h;
    const char *tick = getenv("OWN_CLOCK_TICK_NS");
    if (cmd != 28) return plain_buffer_info(stream, h, cmd, type, out, size);
    if (!first_ns || b->id < first_id) { first_id = b->id; first_ns = b->taken_ns; }
    uint64_t planned_ns = first_ns + (b->id - first_id) * (uint64_t)(1e9 / reg_float(R_RATE));
    return give_u64(type, out, size, (planned_ns + AHEAD_NS) / (tick ? strtoull(tick, NULL, 10) : 1));
}
