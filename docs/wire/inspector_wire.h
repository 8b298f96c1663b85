/* inspector_wire.h: the messages of the inspector's wire protocol, version 1. See docs/wire-protocol.md.
 *
 * Every message is two ZeroMQ frames: this header (128 bytes, little-endian, no padding), then a detail that is JSON
 * or empty. On a big-endian machine swap each field after reading. C11, no dependencies; paste it as it is.
 */
#ifndef INSPECTOR_WIRE_H
#define INSPECTOR_WIRE_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define INSPECTOR_VERSION 1
#define INSPECTOR_HEADER_BYTES 128
#define INSPECTOR_MAX_MESSAGE_BYTES 65536

enum inspector_kind {
    INSPECTOR_ANSWER = 1,    /* daemon -> controller */
    INSPECTOR_STATE = 2,
    INSPECTOR_REFUSED = 3,
    INSPECTOR_HELLO = 32,    /* controller -> daemon */
    INSPECTOR_ACK = 33,
    INSPECTOR_ANNOUNCE = 34
};

enum inspector_flag {
    INSPECTOR_RESENT = 1,
    INSPECTOR_REVIEW = 2,
    INSPECTOR_CUT = 4,
    INSPECTOR_PART_ID_CUT = 8,
    INSPECTOR_UNQUALIFIED = 16
};

/* Zero is never a verdict: cleared memory does not read as PASS. */
enum inspector_verdict { INSPECTOR_PASS = 1, INSPECTOR_FAIL = 2, INSPECTOR_INVALID = 3 };

enum inspector_reason {
    INSPECTOR_NO_REASON = 0,
    INSPECTOR_LATE = 1,
    INSPECTOR_DROPPED = 2,
    INSPECTOR_MISSED = 3,
    INSPECTOR_INCOMPLETE = 4,
    INSPECTOR_NOT_LOCATED = 5,
    INSPECTOR_BAD_IMAGE = 6,
    INSPECTOR_ENGINE_FAULT = 7,
    INSPECTOR_NOT_FINITE = 8,
    INSPECTOR_VIEW_MISSING = 9,
    INSPECTOR_UNRECORDED = 10,
    INSPECTOR_STOPPED = 11,
    INSPECTOR_RESTARTED = 12
};

/* Numbers of OPC 40100-1. */
enum inspector_state {
    INSPECTOR_PREOPERATIONAL = 1,
    INSPECTOR_HALTED = 2,
    INSPECTOR_ERROR = 3,
    INSPECTOR_INITIALIZED = 5,
    INSPECTOR_READY = 6,
    INSPECTOR_SINGLE_EXECUTION = 7,
    INSPECTOR_CONTINUOUS_EXECUTION = 8
};

#pragma pack(push, 1)
struct inspector_header {
    char magic[4];             /*   0 "INSP" */
    uint8_t version;           /*   4 */
    uint8_t kind;              /*   5 enum inspector_kind */
    uint16_t flags;            /*   6 enum inspector_flag; ignore bits you do not know */
    uint16_t header_bytes;     /*   8 128 */
    uint8_t verdict;           /*  10 ANSWER: enum inspector_verdict, else 0 */
    uint8_t reason;            /*  11 ANSWER: enum inspector_reason, else 0 */
    uint8_t state;             /*  12 STATE: enum inspector_state, else 0 */
    uint8_t reserved;          /*  13 0 */
    uint16_t defect_count;     /*  14 ANSWER: defects found, 65535 = that many or more; STATE: alarms begun in this epoch */
    uint32_t epoch;            /*  16 start counter of the daemon */
    int32_t left_us;           /*  20 ANSWER: microseconds to the due time at sending; <= 0: too late, reject */
    uint64_t sequence;         /*  24 ANSWER, ACK: its number; STATE, HELLO: the last; ANNOUNCE: your counter */
    int64_t frame_id;          /*  32 ANSWER: camera frame, -1 = none; ANNOUNCE: encoder; STATE: triggers opened */
    uint64_t taken_ns;         /*  40 ANSWER: frame available; the daemon's monotonic clock */
    uint64_t settled_ns;       /*  48 ANSWER: decided; STATE: sent; same clock */
    uint64_t durable;          /*  56 ANSWER, STATE: answers up to this number survive a power cut */
    uint8_t engine[8];         /*  64 first 8 bytes of SHA-256; 0 = none */
    uint8_t calibration[8];    /*  72 */
    uint8_t settings[8];       /*  80 */
    char part_id[32];          /*  88 UTF-8, padded with NUL; not terminated where it fills all 32 */
    uint32_t detail_bytes;     /* 120 length of the second frame */
    uint32_t crc32;            /* 124 CRC-32 (as in PNG, zip, zlib) of bytes 0..123 and the second frame */
};
#pragma pack(pop)

#define INSPECTOR_AT(field, offset) \
    static_assert(offsetof(struct inspector_header, field) == (offset), #field " stands at " #offset)
static_assert(sizeof(struct inspector_header) == INSPECTOR_HEADER_BYTES, "the header has 128 bytes");
INSPECTOR_AT(flags, 6);
INSPECTOR_AT(verdict, 10);
INSPECTOR_AT(epoch, 16);
INSPECTOR_AT(sequence, 24);
INSPECTOR_AT(durable, 56);
INSPECTOR_AT(engine, 64);
INSPECTOR_AT(part_id, 88);
INSPECTOR_AT(crc32, 124);

/* Continue a CRC-32 over more bytes; start with 0. */
static inline uint32_t inspector_crc32(uint32_t crc, const void *bytes, size_t length)
{
    const uint8_t *at = (const uint8_t *)bytes;
    crc = ~crc;
    while (length--) {
        crc ^= *at++;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (0xEDB88320u & (0u - (crc & 1u)));
    }
    return ~crc;
}

/* Read a message of two frames. Returns 0 and fills *out, or a negative number: -1 length, -2 magic or version,
 * -3 contradiction, -4 damaged. */
static inline int inspector_read(const void *header, size_t header_bytes, const void *detail, size_t detail_bytes,
                                 struct inspector_header *out)
{
    if (header_bytes != INSPECTOR_HEADER_BYTES || header_bytes + detail_bytes > INSPECTOR_MAX_MESSAGE_BYTES)
        return -1;
    memcpy(out, header, sizeof *out);
    if (memcmp(out->magic, "INSP", 4) != 0 || out->version != INSPECTOR_VERSION)
        return -2;
    if (out->header_bytes != INSPECTOR_HEADER_BYTES || out->detail_bytes != detail_bytes || out->reserved != 0)
        return -3;
    uint32_t crc = inspector_crc32(0, header, offsetof(struct inspector_header, crc32));
    return inspector_crc32(crc, detail, detail_bytes) == out->crc32 ? 0 : -4;
}

/* Does this ANSWER open the gate? The only way is a PASS that is in time. Silence, and everything else, is a reject. */
static inline int inspector_accept(const struct inspector_header *answer)
{
    return answer->kind == INSPECTOR_ANSWER && answer->verdict == INSPECTOR_PASS &&
           answer->reason == INSPECTOR_NO_REASON && answer->left_us > 0;
}

/* Write a message of the controller (HELLO, ACK of one answer, ANNOUNCE); its second frame is empty. */
static inline void inspector_write(struct inspector_header *out, enum inspector_kind kind, uint32_t epoch,
                                   uint64_t sequence, int64_t encoder, const char *part_id)
{
    memset(out, 0, sizeof *out);
    memcpy(out->magic, "INSP", 4);
    out->version = INSPECTOR_VERSION;
    out->kind = (uint8_t)kind;
    out->header_bytes = INSPECTOR_HEADER_BYTES;
    out->epoch = epoch;
    out->sequence = sequence;
    out->frame_id = encoder;
    if (part_id != NULL)
        for (size_t at = 0; at < sizeof out->part_id && part_id[at] != '\0'; at++)
            out->part_id[at] = part_id[at];
    out->crc32 = inspector_crc32(0, out, offsetof(struct inspector_header, crc32));
}

#endif
