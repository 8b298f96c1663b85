/* The costliest pure functions of a part's way, each in one call: what is slow there is not the arithmetic but the many
 * pieces of code that Python, numpy and OpenCV run for it once, cold, after an inference has swept the caches.
 *
 * survey()  what the checks of a frame ask: how much is saturated, how far block means deviate
 * shrink()  mean over area, then the engine's normalisation
 * blobs()   map -> mask, connected blobs, their sums, callipers and boxes
 *
 * The Python code beside each caller is the reference, and every result here is bit-identical to it: sums are of whole
 * numbers or exact in double, and each rounded operation is the same IEEE operation in the same order (so never compile
 * with -ffast-math, nor let a*b+c be fused). Where that cannot be promised, a function returns None and the reference
 * answers. A call of the usual size takes a tenth of a millisecond and holds the interpreter lock; a longer one gives
 * it away meanwhile, so that the answering thread never waits for it. Nothing here is shared.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define REVISION 1 /* of what the functions take and give; native.py uses no other */
#define BLOCK 8    /* pixels of a block whose mean the contrast is taken of */
#define SIDE_MAX 4096
#define STEP_MAX 40
#define ONE_AS_BITS 0x3F800000
#define LONG_PX (1 << 18) /* pixels, and */
#define LONG_RUNS 1024    /* row runs, beyond which the interpreter lock is given away */

typedef int32_t __attribute__((may_alias)) bits_t; /* a float's bits: from 0 to 1 they are ordered as whole numbers */

/* -- buffers ------------------------------------------------------------------------------------------------------ */

/* A 2-D array of one-letter format and pixels side by side; 0 with an exception otherwise. */
static int take(PyObject *from, Py_buffer *view, char format, Py_ssize_t item, int writable)
{
    int flags = writable ? PyBUF_WRITABLE | PyBUF_STRIDES | PyBUF_FORMAT : PyBUF_STRIDES | PyBUF_FORMAT;
    if (PyObject_GetBuffer(from, view, flags) < 0)
        return 0;
    if (view->ndim == 2 && view->itemsize == item && view->format != NULL && view->format[0] == format &&
        view->format[1] == '\0' && view->shape[0] > 0 && view->shape[1] > 0 && view->strides[1] == item)
        return 1;
    PyBuffer_Release(view);
    PyErr_Format(PyExc_TypeError, "expected a 2-D array of format %c, its pixels side by side", format);
    return 0;
}

static int same_place(const Py_buffer *view, Py_ssize_t height, Py_ssize_t width)
{
    if (view->shape[0] == height && view->shape[1] == width && view->strides[0] == width * view->itemsize)
        return 1;
    PyErr_SetString(PyExc_ValueError, "expected contiguous arrays of one size");
    return 0;
}

static PyThreadState *unlock_if(int is_long)
{
    return is_long ? PyEval_SaveThread() : NULL;
}

static void lock_again(PyThreadState *thread)
{
    if (thread != NULL)
        PyEval_RestoreThread(thread);
}

/* -- survey ------------------------------------------------------------------------------------------------------- */

static void survey_rows(const uint8_t *row, Py_ssize_t stride, Py_ssize_t height, Py_ssize_t width, uint16_t *down,
                        long long *found)
{
    for (Py_ssize_t y = 0; y < height; y++, row += stride) {
        uint32_t white = 0;
        for (Py_ssize_t x = 0; x < width; x++)
            white += row[x] == 255;
        found[0] += white;
        if (y % BLOCK == 0)
            memset(down, 0, (size_t)width * sizeof *down);
        for (Py_ssize_t x = 0; x < width; x++)
            down[x] = (uint16_t)(down[x] + row[x]);
        if (y % BLOCK != BLOCK - 1)
            continue; /* what fills no block at the end counts for none */
        for (Py_ssize_t x = 0; x + BLOCK <= width; x += BLOCK) {
            long long sum = 0;
            for (int i = 0; i < BLOCK; i++)
                sum += down[x + i];
            found[1] += sum;
            found[2] += sum * sum;
        }
    }
}

/* survey(image) -> (pixels at 255, sum over all whole blocks, sum of the squares of the blocks' sums) */
static PyObject *survey(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    (void)self;
    Py_buffer image;
    long long found[3] = {0, 0, 0};
    if (count != 1) {
        PyErr_SetString(PyExc_TypeError, "survey takes 1 argument");
        return NULL;
    }
    if (!take(args[0], &image, 'B', 1, 0))
        return NULL;
    uint16_t *down = malloc((size_t)image.shape[1] * sizeof *down);
    PyThreadState *thread = unlock_if(image.shape[0] * image.shape[1] > LONG_PX);
    if (down != NULL)
        survey_rows(image.buf, image.strides[0], image.shape[0], image.shape[1], down, found);
    lock_again(thread);
    free(down);
    PyBuffer_Release(&image);
    return down == NULL ? PyErr_NoMemory() : Py_BuildValue("LLL", found[0], found[1], found[2]);
}

/* -- shrink ------------------------------------------------------------------------------------------------------- */

/* An axis that shrinks from step to count pixels, again and again. */
typedef struct {
    int step, count, taps; /* taps: the most pixels that one of the smaller axis covers */
    int32_t *first;        /* of each of the smaller axis: the first pixel it covers, */
    uint16_t *weight;      /* and taps shares, in parts of 1 / step; the unused ones are 0 */
} axis_t;

static int divisor(Py_ssize_t a, Py_ssize_t b)
{
    while (b) {
        Py_ssize_t rest = a % b;
        a = b;
        b = rest;
    }
    return (int)a;
}

static int axis_make(axis_t *axis, Py_ssize_t from, Py_ssize_t to)
{
    int common = divisor(from, to);
    axis->step = (int)(from / common), axis->count = (int)(to / common);
    axis->taps = (axis->step - 1) / axis->count + 2; /* a window of step / count pixels touches at most so many */
    axis->first = malloc((size_t)to * sizeof *axis->first);
    axis->weight = calloc((size_t)to * (size_t)axis->taps, sizeof *axis->weight);
    if (axis->first == NULL || axis->weight == NULL)
        return 0;
    for (Py_ssize_t i = 0; i < to; i++) {
        int begin = (int)(i % axis->count) * axis->step, end = begin + axis->step;
        int pixel = begin / axis->count;
        axis->first[i] = (int32_t)(i / axis->count) * axis->step + pixel;
        uint16_t *weight = axis->weight + i * axis->taps;
        for (int left = pixel * axis->count; left < end; left += axis->count) {
            int from_here = left > begin ? left : begin, to_here = left + axis->count < end ? left + axis->count : end;
            *weight++ = (uint16_t)(to_here - from_here);
        }
    }
    return 1;
}

static void axis_free(axis_t *axis)
{
    free(axis->first);
    free(axis->weight);
}

/* The sum over the rows that output row y covers, in parts of 1 / step. */
static inline __attribute__((always_inline)) void down_row(const Py_buffer *image, const axis_t *rows, Py_ssize_t y,
                                                           uint16_t *down)
{
    Py_ssize_t wide = image->shape[1], last = image->shape[0] - 1, from = rows->first[y];
    const uint16_t *weight = rows->weight + y * rows->taps;
    const uint8_t *row[3]; /* what lies behind the last row has no weight */
    for (Py_ssize_t i = 0; i < 3; i++)
        row[i] = (const uint8_t *)image->buf + (from + i < last ? from + i : last) * image->strides[0];
    uint16_t a = weight[0], b = weight[1], c = rows->taps > 2 ? weight[2] : 0;
    for (Py_ssize_t x = 0; x < wide; x++)
        down[x] = (uint16_t)(a * row[0][x] + b * row[1][x] + c * row[2][x]);
    for (int i = 3; i < rows->taps && weight[i]; i++) {
        const uint8_t *more = (const uint8_t *)image->buf + (from + i) * image->strides[0];
        for (Py_ssize_t x = 0; x < wide; x++)
            down[x] = (uint16_t)(down[x] + weight[i] * more[x]);
    }
}

/* Two rows at once, one in each half of a word: no sum reaches 2^19. */
static inline __attribute__((always_inline)) void across(const uint64_t *pair, uint64_t *sum, const axis_t *columns,
                                                         Py_ssize_t width, int taps)
{
    for (Py_ssize_t x = 0; x < width; x++) {
        const uint64_t *pixel = pair + columns->first[x];
        const uint16_t *weight = columns->weight + x * taps;
        uint64_t total = 0;
        for (int i = 0; i < taps; i++)
            total += weight[i] * pixel[i];
        sum[x] = total;
    }
}

/* A mean is a whole number divided by an odd one, or by a power of two that float holds exactly (pixels.py admits no
 * other): so float rounds it as exact arithmetic would, ties to even. */
static void round_row(const uint64_t *sum, int half, Py_ssize_t width, float share, const float *table, uint8_t *grey,
                      float *values)
{
    for (Py_ssize_t x = 0; x < width; x++) {
        float mean = (float)(int32_t)(sum[x] >> half) * share + 12582912.0f; /* 1.5 * 2^23: its last bit is worth 1 */
        int32_t bits;
        memcpy(&bits, &mean, sizeof bits);
        grey[x] = (uint8_t)bits;
    }
    for (Py_ssize_t x = 0; x < width; x++)
        values[x] = table[grey[x]];
}

typedef struct {
    axis_t rows, columns;
    uint16_t *down[2];
    uint64_t *pair, *sum;
} shrink_t;

static void shrink_rows(const Py_buffer *image, const shrink_t *by, const float *table, const Py_buffer *grey,
                        const Py_buffer *tensor)
{
    Py_ssize_t wide = image->shape[1], height = grey->shape[0], width = grey->shape[1];
    const float share = 1.0f / (float)(by->rows.step * by->columns.step);
    for (Py_ssize_t y = 0; y < height; y += 2) {
        Py_ssize_t next = y + 1 < height ? y + 1 : y;
        down_row(image, &by->rows, y, by->down[0]);
        down_row(image, &by->rows, next, by->down[1]);
        for (Py_ssize_t x = 0; x < wide; x++)
            by->pair[x] = by->down[0][x] | (uint64_t)by->down[1][x] << 32;
        switch (by->columns.taps) { /* the usual ratios, unrolled */
        case 2: across(by->pair, by->sum, &by->columns, width, 2); break;
        case 3: across(by->pair, by->sum, &by->columns, width, 3); break;
        default: across(by->pair, by->sum, &by->columns, width, by->columns.taps);
        }
        for (int half = 0; half < 2; half++) {
            Py_ssize_t at = (half ? next : y) * width;
            round_row(by->sum, half * 32, width, share, table, (uint8_t *)grey->buf + at, (float *)tensor->buf + at);
        }
    }
}

static int shrink_into(const Py_buffer *image, const Py_buffer *grey, const Py_buffer *tensor, const Py_buffer *table)
{
    Py_ssize_t height = grey->shape[0], width = grey->shape[1];
    if (!same_place(grey, height, width) || !same_place(tensor, height, width) || !same_place(table, 1, 256))
        return 0;
    if (image->shape[0] < height || image->shape[1] < width || image->shape[0] > INT_MAX / STEP_MAX ||
        image->shape[1] > INT_MAX / STEP_MAX) {
        PyErr_SetString(PyExc_ValueError, "expected a smaller output than image");
        return 0;
    }
    if (image->shape[0] / divisor(image->shape[0], height) > STEP_MAX ||
        image->shape[1] / divisor(image->shape[1], width) > STEP_MAX) {
        PyErr_SetString(PyExc_ValueError, "expected a ratio of small numbers");
        return 0;
    }
    size_t wide = (size_t)image->shape[1], behind = STEP_MAX + 2; /* the last pixels' unused taps reach so far */
    shrink_t by = {.down = {malloc(wide * 2), malloc(wide * 2)},
                   .pair = calloc(wide + behind, sizeof *by.pair),
                   .sum = malloc((size_t)width * sizeof *by.sum)};
    int made = by.down[0] != NULL && by.down[1] != NULL && by.pair != NULL && by.sum != NULL &&
               axis_make(&by.rows, image->shape[0], height) && axis_make(&by.columns, image->shape[1], width);
    PyThreadState *thread = unlock_if(image->shape[0] * image->shape[1] > LONG_PX);
    if (made)
        shrink_rows(image, &by, table->buf, grey, tensor);
    lock_again(thread);
    if (!made)
        PyErr_NoMemory();
    axis_free(&by.rows);
    axis_free(&by.columns);
    free(by.down[0]);
    free(by.down[1]);
    free(by.pair);
    free(by.sum);
    return made;
}

/* shrink(image, grey, tensor, table): fills grey (H x W uint8) and tensor (H x W float32, table[0, grey]) */
static PyObject *shrink(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    static const char formats[] = "BBff";
    (void)self;
    Py_buffer view[4];
    int taken = 0, done = 0;
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "shrink takes 4 arguments");
        return NULL;
    }
    while (taken < 4 && take(args[taken], &view[taken], formats[taken], taken < 2 ? 1 : 4, taken == 1 || taken == 2))
        taken++;
    if (taken == 4)
        done = shrink_into(&view[0], &view[1], &view[2], &view[3]);
    while (taken)
        PyBuffer_Release(&view[--taken]);
    if (!done)
        return NULL;
    Py_RETURN_NONE;
}

/* -- blobs -------------------------------------------------------------------------------------------------------- */

typedef struct {
    int32_t y, first, last; /* a row run: its row, first and last pixel */
    int32_t root;           /* the first run, in reading order, that it is known to be joined to */
} run_t;

typedef struct {
    run_t *at;
    int32_t size, room;
} runs_t;

typedef struct {
    int64_t area, x_twice, y_twice; /* sums over pixels, of their places twice */
    double total, x, y;
    float top;
    int32_t number; /* place in reading order of first pixels */
    int ignored;
} blob_t;

typedef struct {
    const bits_t *scores;
    const uint8_t *inspected, *owner; /* or NULL */
    uint8_t *mask;
    Py_ssize_t height, width, zones;
    double scale_x, scale_y, squared_x, squared_y;
    int32_t threshold;
    int everything;
    Py_ssize_t listed_max;
} asked_t;

static int add_run(runs_t *runs, Py_ssize_t y, Py_ssize_t first, Py_ssize_t last)
{
    if (runs->size == runs->room) {
        int32_t room = runs->room ? runs->room * 2 : 512;
        run_t *at = realloc(runs->at, (size_t)room * sizeof *at);
        if (at == NULL)
            return 0;
        runs->at = at, runs->room = room;
    }
    runs->at[runs->size] = (run_t){(int32_t)y, (int32_t)first, (int32_t)last, runs->size};
    runs->size++;
    return 1;
}

static int32_t root_of(run_t *runs, int32_t run)
{
    while (runs[run].root != run)
        run = runs[run].root = runs[runs[run].root].root;
    return run;
}

static void join(run_t *runs, int32_t one, int32_t other)
{
    one = root_of(runs, one), other = root_of(runs, other);
    if (one < other)
        runs[other].root = one;
    else
        runs[one].root = other;
}

/* The runs of one row of a mask, each joined to those of the row above that it touches, corners included. */
static int row_runs(runs_t *runs, const uint8_t *row, Py_ssize_t y, Py_ssize_t width, int32_t *above)
{
    int32_t begun = runs->size, from = *above;
    const uint8_t *end = row + width, *at = row;
    while (at < end && (at = memchr(at, 1, (size_t)(end - at))) != NULL) {
        const uint8_t *behind = memchr(at, 0, (size_t)(end - at));
        if (behind == NULL)
            behind = end;
        if (!add_run(runs, y, at - row, behind - row - 1))
            return 0;
        run_t *own = &runs->at[runs->size - 1];
        while (from < begun && (runs->at[from].y < y - 1 || runs->at[from].last < own->first - 1))
            from++;
        for (int32_t each = from; each < begun && runs->at[each].first <= own->last + 1; each++)
            join(runs->at, each, runs->size - 1);
        at = behind;
    }
    *above = begun;
    return 1;
}

/* The highest of some values, and all their bits: four at a time, since each comparison waits for the one before. */
static int32_t highest_of(const bits_t *scores, Py_ssize_t size, int32_t *all)
{
    Py_ssize_t part = size / 4;
    const bits_t *a = scores, *b = a + part, *c = b + part, *d = c + part;
    int32_t top[4] = {0, 0, 0, 0}, every = 0;
    for (Py_ssize_t i = 0; i < part; i++) {
        top[0] = a[i] > top[0] ? a[i] : top[0];
        top[1] = b[i] > top[1] ? b[i] : top[1];
        top[2] = c[i] > top[2] ? c[i] : top[2];
        top[3] = d[i] > top[3] ? d[i] : top[3];
        every |= a[i] | b[i] | c[i] | d[i];
    }
    for (Py_ssize_t i = 4 * part; i < size; i++) {
        top[0] = scores[i] > top[0] ? scores[i] : top[0];
        every |= scores[i];
    }
    for (int i = 1; i < 4; i++)
        top[0] = top[i] > top[0] ? top[i] : top[0];
    *all = every;
    return top[0];
}

/* Mask and runs, those of ignored zones behind those that are judged. Returns how many are judged; -1: out of memory,
 * -2: a value that is no finite number from 0 to 1, or a negative zero. */
static int32_t find_runs(const asked_t *asked, runs_t *runs, uint8_t *part, int32_t *top)
{
    Py_ssize_t width = asked->width;
    int32_t all, highest = highest_of(asked->scores, asked->height * width, &all), above = 0;
    if (all < 0 || highest > ONE_AS_BITS)
        return -2;
    int any = highest >= asked->threshold;
    *top = highest;
    if (!any)
        memset(asked->mask, 0, (size_t)(asked->height * width));
    for (Py_ssize_t y = 0; y < asked->height && any; y++) {
        const bits_t *scores = asked->scores + y * width;
        uint8_t *mask = asked->mask + y * width;
        const uint8_t *row = mask;
        for (Py_ssize_t x = 0; x < width; x++)
            mask[x] = scores[x] >= asked->threshold;
        if (asked->inspected != NULL) {
            const uint8_t *inspected = asked->inspected + y * width;
            for (Py_ssize_t x = 0; x < width; x++)
                part[x] = mask[x] & inspected[x];
            row = part;
        }
        if (!row_runs(runs, row, y, width, &above))
            return -1;
    }
    int32_t judged = runs->size;
    if (asked->inspected == NULL)
        return judged;
    *top = 0, above = judged;
    for (Py_ssize_t y = 0; y < asked->height; y++) {
        const uint8_t *mask = asked->mask + y * width, *inspected = asked->inspected + y * width;
        const bits_t *scores = asked->scores + y * width;
        int32_t here = 0;
        for (Py_ssize_t x = 0; x < width; x++) {
            int32_t score = inspected[x] ? scores[x] : 0;
            here = score > here ? score : here;
        }
        *top = here > *top ? here : *top;
        for (Py_ssize_t x = 0; x < width; x++)
            part[x] = mask[x] & !inspected[x];
        if (any && !row_runs(runs, part, y, width, &above))
            return -1;
    }
    return judged;
}

/* Largest first, then topmost, leftmost, and first found: a total order, so that any sort gives the same. */
static int before(const void *one, const void *other)
{
    const blob_t *a = one, *b = other;
    if (a->ignored != b->ignored)
        return a->ignored - b->ignored;
    if (a->area != b->area)
        return a->area > b->area ? -1 : 1;
    if (a->y != b->y)
        return a->y < b->y ? -1 : 1;
    if (a->x != b->x)
        return a->x < b->x ? -1 : 1;
    return a->number < b->number ? -1 : 1;
}

static void add_pixels(const asked_t *asked, const run_t *run, blob_t *blob)
{
    const float *scores = (const float *)asked->scores + run->y * asked->width;
    int64_t size = run->last - run->first + 1;
    double total = 0.0;
    float top = blob->top;
    for (int32_t x = run->first; x <= run->last; x++) {
        total += (double)scores[x];
        top = scores[x] > top ? scores[x] : top;
    }
    blob->area += size;
    blob->x_twice += size * (run->first + run->last);
    blob->y_twice += size * 2 * run->y;
    blob->total += total; /* exact, whatever the order: decision/blobs.py admits no threshold so low that it were not */
    blob->top = top;
}

typedef struct {
    int64_t x, y;
} corner_t;

/* The convex side of a blob: its corners from the top down, of which each turns the same way; those on a line go. */
static Py_ssize_t chain(const run_t *const *runs, Py_ssize_t count, int right, corner_t *out)
{
    Py_ssize_t size = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        const run_t *run = right ? runs[count - 1 - i] : runs[i];
        corner_t next = right ? (corner_t){-run->last, -run->y} : (corner_t){run->first, run->y};
        while (size >= 2) {
            corner_t a = out[size - 2], b = out[size - 1];
            if ((b.x - a.x) * (next.y - b.y) - (b.y - a.y) * (next.x - b.x) < 0)
                break;
            size--;
        }
        out[size++] = next;
    }
    return size;
}

/* From each corner of one chain an edge, the last one level: across it the other chain's farthest corner. */
static void callipers(const asked_t *asked, const corner_t *own, Py_ssize_t size, const corner_t *other,
                      Py_ssize_t others, double *reach, double *wide)
{
    double sx = asked->scale_x, sy = asked->scale_y;
    Py_ssize_t far = 0;
    for (Py_ssize_t i = 0; i < size; i++) {
        int level = i == size - 1;
        int64_t across = level ? 1 : own[i + 1].x - own[i].x, down = level ? 0 : own[i + 1].y - own[i].y;
        int64_t length = llabs(across) + down;
        while (far < others - 1) { /* edges of both chains turn alike: the first that is turned as far */
            int64_t x = other[far + 1].x - other[far].x, y = other[far + 1].y - other[far].y;
            if (x * length >= across * (llabs(x) + y))
                break;
            far++;
        }
        int64_t x = own[i].x + other[far].x, y = own[i].y + other[far].y;
        double cross = (double)(across * y - down * x), found, width;
        if (sx == sy) {
            found = (double)(x * x + y * y);
            width = cross / sqrt((double)(across * across + down * down));
        } else {
            double in_x = (double)x * sx, in_y = (double)y * sy, edge_x = (double)across * sx, edge_y = (double)down * sy;
            in_x *= in_x, in_y *= in_y, edge_x *= edge_x, edge_y *= edge_y;
            double straight = sqrt(in_x + in_y);
            double least = straight > 1e-9 ? straight : 1e-9;
            found = straight + sqrt(in_x * asked->squared_x + in_y * asked->squared_y) / least;
            double edge = sqrt((double)(across * across + down * down));
            width = level ? INFINITY : (cross + edge) * (sx * sy) / sqrt(edge_x + edge_y);
        }
        *reach = found > *reach ? found : *reach;
        *wide = width < *wide ? width : *wide;
    }
}

/* length, width and the box's x, y, width, height of one blob */
static void extents(const asked_t *asked, const run_t *const *runs, Py_ssize_t count, corner_t *left, corner_t *right,
                    double *length, double *width, int64_t *box)
{
    double sx = asked->scale_x, sy = asked->scale_y, reach = -INFINITY, wide = INFINITY;
    Py_ssize_t lefts = chain(runs, count, 0, left), rights = chain(runs, count, 1, right);
    callipers(asked, left, lefts, right, rights, &reach, &wide);
    callipers(asked, right, rights, left, lefts, &reach, &wide);
    int32_t first = runs[0]->first, last = runs[0]->last;
    for (Py_ssize_t i = 1; i < count; i++) {
        first = runs[i]->first < first ? runs[i]->first : first;
        last = runs[i]->last > last ? runs[i]->last : last;
    }
    box[0] = first, box[1] = runs[0]->y, box[2] = last - first + 1, box[3] = runs[count - 1]->y - runs[0]->y + 1;
    if (sx == sy) {
        *length = (sqrt(reach) + 1.0) * sx;
        *width = (wide + 1.0) * sx;
        return;
    }
    double larger = sx > sy ? sx : sy, in_x = (double)box[2] * sx, in_y = (double)box[3] * sy;
    double side = in_x < in_y ? in_x : in_y;
    *length = reach > larger ? reach : larger;
    *width = wide < side ? wide : side;
}

/* Everything behind the runs; the memory it needs is its caller's. */
typedef struct {
    blob_t *blobs;
    int32_t *number;      /* of each run: its blob */
    int64_t *first;       /* of each blob: its first run in sorted */
    const run_t **sorted; /* runs blob by blob */
    corner_t *left, *right;
} work_t;

static int32_t gather(const asked_t *asked, const runs_t *runs, int32_t judged_runs, work_t *work, int32_t *judged)
{
    int32_t count = 0;
    *judged = 0;
    for (int32_t i = 0; i < runs->size; i++) {
        int32_t root = root_of(runs->at, i);
        if (root == i) {
            work->blobs[count] = (blob_t){.number = count, .ignored = i >= judged_runs};
            *judged += i < judged_runs;
            work->number[i] = count++;
        } else {
            work->number[i] = work->number[root];
        }
        work->first[work->number[i] + 1]++;
        add_pixels(asked, &runs->at[i], &work->blobs[work->number[i]]);
    }
    for (int32_t i = 0; i < count; i++) {
        blob_t *blob = &work->blobs[i];
        double twice = (double)(blob->area + blob->area);
        blob->x = (double)blob->x_twice / twice, blob->y = (double)blob->y_twice / twice;
        work->first[i + 1] += work->first[i];
    }
    for (int32_t i = runs->size - 1; i >= 0; i--) /* from behind: the ends move down to the begins */
        work->sorted[--work->first[work->number[i] + 1]] = &runs->at[i];
    for (int32_t i = 0; i < count; i++)
        work->first[i] = work->first[i + 1];
    work->first[count] = runs->size;
    return count;
}

#define COLUMNS 13 /* area x y mean top length width box(4) label area_px: 8 bytes each, column by column */

static void fill_blobs(const asked_t *asked, const work_t *work, Py_ssize_t size, int measured, int64_t *whole)
{
    double *real = (double *)(void *)whole; /* written as what it is read as: bytes have no type of their own */
    for (Py_ssize_t i = 0; i < size; i++) {
        const blob_t *blob = &work->blobs[i];
        const int64_t *first = work->first + blob->number;
        double mean = blob->total / (double)blob->area, length = 0.0, width = 0.0;
        int64_t box[4] = {0, 0, 0, 0};
        if (measured)
            extents(asked, work->sorted + first[0], first[1] - first[0], work->left, work->right, &length, &width, box);
        whole[i] = blob->area, whole[11 * size + i] = blob->number;
        real[12 * size + i] = (double)blob->area * (asked->scale_x * asked->scale_y);
        real[size + i] = blob->x, real[2 * size + i] = blob->y, real[3 * size + i] = mean;
        real[4 * size + i] = (double)blob->top, real[5 * size + i] = length, real[6 * size + i] = width;
        for (int j = 0; j < 4; j++)
            whole[(7 + j) * size + i] = box[j];
    }
}

static void fill_zones(const asked_t *asked, const work_t *work, Py_ssize_t size, int64_t *out)
{
    memset(out, 0, (size_t)(size * (asked->zones + 1)) * sizeof *out);
    for (Py_ssize_t i = 0; i < size; i++, out += asked->zones + 1) {
        const int64_t *first = work->first + work->blobs[i].number;
        for (int64_t j = first[0]; j < first[1]; j++) {
            const run_t *run = work->sorted[j];
            for (int32_t x = run->first; x <= run->last; x++) {
                uint8_t zone = asked->owner[run->y * asked->width + x];
                out[zone <= asked->zones ? zone : 0]++;
            }
        }
    }
}

static void fill_runs(const work_t *work, Py_ssize_t size, double *out)
{
    for (Py_ssize_t i = 0; i < size; i++) {
        const run_t *run = work->sorted[i];
        out[2 * i] = run->first, out[2 * (size + i)] = run->last;
        out[2 * i + 1] = out[2 * (size + i) + 1] = run->y;
    }
}

/* (score, judged, measured, blobs, runs, bytes): COLUMNS, zones + 1 whole numbers of each blob where there are zones,
 * the first run of each blob and their end, first and last pixel of each run as complex numbers */
static PyObject *answer(const asked_t *asked, const runs_t *runs, int32_t judged_runs, double score, work_t *work)
{
    PyThreadState *thread = unlock_if(runs->size > LONG_RUNS);
    int32_t judged, count = gather(asked, runs, judged_runs, work, &judged);
    qsort(work->blobs, (size_t)count, sizeof *work->blobs, before);
    lock_again(thread);
    Py_ssize_t size = count < judged + asked->listed_max ? count : judged + asked->listed_max;
    int measured = asked->everything || judged <= asked->listed_max;
    Py_ssize_t zones = size * COLUMNS, first = zones + (asked->owner == NULL ? 0 : size * (asked->zones + 1));
    Py_ssize_t points = first + count + 1, end = points + 4 * (Py_ssize_t)runs->size;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, end * 8);
    if (bytes == NULL)
        return NULL;
    int64_t *out = (int64_t *)(void *)PyBytes_AsString(bytes);
    thread = unlock_if(runs->size > LONG_RUNS);
    fill_blobs(asked, work, size, measured, out);
    if (asked->owner != NULL)
        fill_zones(asked, work, size, out + zones);
    memcpy(out + first, work->first, ((size_t)count + 1) * sizeof *out);
    fill_runs(work, runs->size, (double *)(void *)(out + points));
    lock_again(thread);
    return Py_BuildValue("diiniN", score, (int)judged, measured, size, (int)runs->size, bytes);
}

static PyObject *find_blobs(const asked_t *asked)
{
    runs_t runs = {NULL, 0, 0};
    int32_t top = 0, judged = -1;
    uint8_t *part = malloc((size_t)asked->width);
    PyThreadState *thread = unlock_if(asked->height * asked->width > LONG_PX);
    if (part != NULL)
        judged = find_runs(asked, &runs, part, &top);
    lock_again(thread);
    free(part);
    PyObject *out = NULL;
    float score;
    memcpy(&score, &top, sizeof score);
    if (judged == -2) {
        out = Py_NewRef(Py_None);
    } else if (judged == -1) {
        PyErr_NoMemory();
    } else if (runs.size == 0) {
        out = Py_BuildValue("(d)", (double)score);
    } else {
        size_t count = (size_t)runs.size;
        work_t work = {malloc(count * sizeof *work.blobs),     malloc(count * sizeof *work.number),
                       calloc(count + 1, sizeof *work.first),  malloc(count * sizeof *work.sorted),
                       malloc(count * sizeof *work.left),      malloc(count * sizeof *work.right)};
        if (work.blobs && work.number && work.first && work.sorted && work.left && work.right)
            out = answer(asked, &runs, judged, (double)score, &work);
        else
            PyErr_NoMemory();
        free(work.blobs);
        free(work.number);
        free(work.first);
        free((void *)work.sorted);
        free(work.left);
        free(work.right);
    }
    free(runs.at);
    return out;
}

/* blobs(scores, mask, inspected, owner, zones, threshold, listed_max, everything, scale_x, scale_y, scale_x^2,
 * scale_y^2) -> None: the reference answers; (score,): nothing reaches the threshold; else see answer(). Fills mask. */
static PyObject *blobs(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    static const struct { char format; Py_ssize_t item; } kinds[4] = {{'f', 4}, {'?', 1}, {'?', 1}, {'B', 1}};
    (void)self;
    Py_buffer view[4];
    int taken[4] = {0, 0, 0, 0}, fits = 1;
    PyObject *out = NULL;
    if (count != 12) {
        PyErr_SetString(PyExc_TypeError, "blobs takes 12 arguments");
        return NULL;
    }
    if (!(taken[0] = take(args[0], &view[0], kinds[0].format, kinds[0].item, 0))) { /* unaligned, or not in rows */
        if (!PyErr_ExceptionMatches(PyExc_TypeError))
            return NULL;
        PyErr_Clear();
        return Py_NewRef(Py_None);
    }
    for (int i = 1; i < 4 && fits; i++)
        if (i < 2 || args[i] != Py_None)
            fits = taken[i] = take(args[i], &view[i], kinds[i].format, kinds[i].item, i == 1);
    for (int i = 1; i < 4 && fits; i++)
        fits = !taken[i] || same_place(&view[i], view[0].shape[0], view[0].shape[1]);
    int ours = fits && view[0].strides[0] == view[0].shape[1] * 4 && (uintptr_t)view[0].buf % 4 == 0;
    if (fits && !ours) {
        out = Py_NewRef(Py_None);
    } else if (fits) {
        float threshold = (float)PyFloat_AsDouble(args[5]);
        asked_t asked = {.scores = view[0].buf, .mask = view[1].buf, .height = view[0].shape[0],
                         .width = view[0].shape[1], .zones = PyLong_AsSsize_t(args[4]),
                         .listed_max = PyLong_AsSsize_t(args[6]), .everything = PyObject_IsTrue(args[7]),
                         .scale_x = PyFloat_AsDouble(args[8]), .scale_y = PyFloat_AsDouble(args[9]),
                         .squared_x = PyFloat_AsDouble(args[10]), .squared_y = PyFloat_AsDouble(args[11])};
        asked.inspected = taken[2] ? view[2].buf : NULL;
        asked.owner = taken[3] ? view[3].buf : NULL;
        memcpy(&asked.threshold, &threshold, sizeof threshold);
        if (PyErr_Occurred() == NULL) {
            if (asked.height <= SIDE_MAX && asked.width <= SIDE_MAX && threshold > 0.0f && threshold <= 1.0f &&
                asked.zones >= 0 && asked.zones <= UINT8_MAX && asked.listed_max >= 0)
                out = find_blobs(&asked);
            else
                out = Py_NewRef(Py_None);
        }
    }
    for (int i = 0; i < 4; i++)
        if (taken[i])
            PyBuffer_Release(&view[i]);
    return out;
}

/* -- the module --------------------------------------------------------------------------------------------------- */

static PyMethodDef methods[] = {
    {"survey", (PyCFunction)(void (*)(void))survey, METH_FASTCALL, NULL},
    {"shrink", (PyCFunction)(void (*)(void))shrink, METH_FASTCALL, NULL},
    {"blobs", (PyCFunction)(void (*)(void))blobs, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void);

PyMODINIT_FUNC PyInit__native(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL && PyModule_AddIntConstant(module, "REVISION", REVISION) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
