/* A GenTL producer with one simulated Mono8 camera whose faults are switched on from outside.
 *
 * It answers the 41 functions that a GenTL consumer built on the genicam binding calls. Frames come from a file of
 * raw images (cycled) or from a test pattern; the faults are words of a shared control page (DRILL_GENTL_CONTROL
 * names the file; see producer.py for the Python side, which must agree on the indices below).
 *
 *   gcc -O2 -shared -fPIC -pthread -fvisibility=hidden -o drill.cti producer.c
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))

typedef int32_t gc_err;
typedef void *handle;

enum {
    OK = 0, E_ERROR = -1001, E_NOT_IMPLEMENTED = -1003, E_IN_USE = -1004, E_ACCESS = -1005, E_HANDLE = -1006,
    E_ID = -1007, E_PARAMETER = -1009, E_IO = -1010, E_TIMEOUT = -1011, E_ABORT = -1012, E_BUFFER = -1013,
    E_UNAVAILABLE = -1014, E_ADDRESS = -1015, E_SMALL = -1016, E_BUSY = -1022
};
enum { T_STRING = 1, T_INT32 = 5, T_UINT64 = 8, T_PTR = 10, T_BOOL8 = 11, T_SIZE = 12 };

/* ---- the control page: 64-bit words, then the path of the frames file at byte 1024 ---- */
#define MAGIC 0x314C524450534E49ULL /* "INSPDRL1" little-endian */
#define PAGE 4096
enum {
    C_MAGIC, C_WIDTH, C_HEIGHT, C_FIRST_ID, C_ID_BITS,                /* set before loading */
    C_INCOMPLETE_EVERY, C_INCOMPLETE_NEXT, C_SKIP_EVERY, C_SKIP_NEXT, /* losses by count */
    C_STALL_MS, C_BURST, C_PULLED, C_PULL_COUNT, C_TRUNCATE_NEXT, C_PORT_HANG_MS, C_CRASH, C_BACK,
    C_FRAME_LIMIT, C_LINE1, C_STAMP, C_REPEAT, C_CHATTER,
    C_SHOTS = 32, C_DELIVERED, C_LAST_ID, C_UNDERRUNS, C_INCOMPLETES, C_SKIPPED, C_STARTS, C_OPENS, C_OWNER,
    C_RATE_MHZ, C_TRIGGERS, C_STALLS
};
#define PATH_AT 1024
static volatile uint64_t *page;
static uint64_t own_page[PAGE / 8];

static uint64_t get(int word) { return __atomic_load_n(&page[word], __ATOMIC_SEQ_CST); }
static void set(int word, uint64_t value) { __atomic_store_n(&page[word], value, __ATOMIC_SEQ_CST); }
static void count(int word) { __atomic_add_fetch(&page[word], 1, __ATOMIC_SEQ_CST); }
/* Uses up one of the "next k" faults. */
static int spend(int word) {
    if (!get(word)) return 0;
    __atomic_sub_fetch(&page[word], 1, __ATOMIC_SEQ_CST);
    return 1;
}

/* ---- registers of the camera ---- */
enum {
    R_WIDTH, R_HEIGHT, R_OFFSET_X, R_OFFSET_Y, R_PIXEL_FORMAT, R_ACQUISITION_MODE, R_TRIGGER_SELECTOR, R_TRIGGER_MODE,
    R_TRIGGER_SOURCE, R_LOCKED, R_RATE, R_EXPOSURE, R_GAIN, R_START, R_STOP, R_TRIGGER, R_PAYLOAD, R_WIDTH_MAX,
    R_HEIGHT_MAX, R_USER_SET_LOAD, R_TEMPERATURE, R_COUNT
};
#define REG_AT 0x1000
#define TEXT_AT 0x2000
#define XML_AT 0x100000
#define MONO8 0x01080001
#define MONO16 0x01100007
#define SERIAL "DRILL-1"
#define MODEL "Drill"
#define VENDOR "Inspector"

static uint64_t reg[R_COUNT];
static char text[4][32]; /* serial, model, vendor, user id */

static double reg_float(int index) { double v; memcpy(&v, &reg[index], 8); return v; }
static void reg_set_float(int index, double v) { memcpy(&reg[index], &v, 8); }

/* ---- state: one device, one stream, one event ---- */
struct buffer {
    uint8_t *base;
    size_t size, filled;
    void *user;
    uint64_t id, taken_ns, width, height, format;
    int incomplete;
    enum { IDLE, INPUT, OUTPUT, GIVEN } where;
    struct buffer *next;
};
struct queue { struct buffer *head, *tail; uint64_t length; };

static int tl_object, if_object, dev_object, port_object, ds_object, event_object;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t filled, wake;
static struct queue input, output;
static uint64_t announced, underruns, started_frames;
static int initialised, dev_open, ds_open, event_registered, engine_on, thread_alive, acquiring;
static uint64_t opened_at_pull, software_triggers, line1_seen;
static pthread_t thread;
static const uint8_t *images;
static size_t images_bytes;
static char interface_id[] = "DrillInterface", device_id[] = "DrillDevice", stream_id[] = "Stream0";

static __thread gc_err last_error;
static __thread char last_text[64];
static gc_err fail(gc_err code) {
    last_error = code;
    snprintf(last_text, sizeof last_text, "drill producer: error %d", code);
    return code;
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ULL + (uint64_t)t.tv_nsec;
}

static int unplugged(void) { return get(C_PULLED) || get(C_PULL_COUNT) != opened_at_pull; }

/* ---- answers to info queries ---- */
static gc_err give(int32_t *type, int32_t kind, void *out, size_t *size, const void *value, size_t length) {
    if (!size) return fail(E_PARAMETER);
    if (type) *type = kind;
    if (out) {
        if (*size < length) return fail(E_SMALL);
        memcpy(out, value, length);
    }
    *size = length;
    return OK;
}
static gc_err give_text(int32_t *type, void *out, size_t *size, const char *value) {
    return give(type, T_STRING, out, size, value, strlen(value) + 1);
}
static gc_err give_size(int32_t *type, void *out, size_t *size, size_t value) {
    return give(type, T_SIZE, out, size, &value, sizeof value);
}
static gc_err give_u64(int32_t *type, void *out, size_t *size, uint64_t value) {
    return give(type, T_UINT64, out, size, &value, sizeof value);
}
static gc_err give_int(int32_t *type, void *out, size_t *size, int32_t value) {
    return give(type, T_INT32, out, size, &value, sizeof value);
}
static gc_err give_bool(int32_t *type, void *out, size_t *size, uint8_t value) {
    return give(type, T_BOOL8, out, size, &value, sizeof value);
}

static void push(struct queue *q, struct buffer *b) {
    b->next = NULL;
    if (q->tail) q->tail->next = b; else q->head = b;
    q->tail = b;
    q->length++;
}
static struct buffer *pop(struct queue *q) {
    struct buffer *b = q->head;
    if (b) {
        q->head = b->next;
        if (!q->head) q->tail = NULL;
        q->length--;
    }
    return b;
}

/* ---- registers and features ---- */
static uint64_t bytes_per_pixel(void) { return reg[R_PIXEL_FORMAT] == MONO16 ? 2 : 1; }

static void power_on(void) {
    memset(reg, 0, sizeof reg);
    reg[R_WIDTH] = reg[R_WIDTH_MAX] = get(C_WIDTH);
    reg[R_HEIGHT] = reg[R_HEIGHT_MAX] = get(C_HEIGHT);
    reg[R_PIXEL_FORMAT] = MONO8;
    reg_set_float(R_RATE, 20.0);
    set(C_RATE_MHZ, 20000);
    reg_set_float(R_EXPOSURE, 1000.0);
    reg_set_float(R_TEMPERATURE, 41.5);
    memset(text, 0, sizeof text);
    strcpy(text[0], SERIAL);
    strcpy(text[1], MODEL);
    strcpy(text[2], VENDOR);
    strcpy(text[3], "bench");
}

static void start_frames(void) {
    if (!engine_on) return;
    acquiring = 1;
    line1_seen = get(C_LINE1);
    software_triggers = 0;
    started_frames = 0;
    count(C_STARTS);
    if (get(C_CHATTER)) { puts("drill producer: a driver that talks"); fflush(stdout); }
    pthread_cond_broadcast(&wake);
}

static void written(int index) {
    switch (index) {
    case R_START: reg[R_START] = 0; start_frames(); break;
    case R_STOP: reg[R_STOP] = 0; acquiring = 0; pthread_cond_broadcast(&wake); break;
    case R_TRIGGER: reg[R_TRIGGER] = 0; software_triggers++; count(C_TRIGGERS); pthread_cond_broadcast(&wake); break;
    case R_USER_SET_LOAD: power_on(); break;
    case R_GAIN: reg_set_float(R_GAIN, floor(reg_float(R_GAIN) * 2.0) / 2.0); break; /* this camera knows halves only */
    case R_RATE: set(C_RATE_MHZ, (uint64_t)(reg_float(R_RATE) * 1000.0)); break;
    default: break;
    }
}

#define REG(name, at, mode, kind, extra) \
    "<" kind " Name=\"" name "\"><Address>" at "</Address><Length>8</Length><AccessMode>" mode "</AccessMode>" \
    "<pPort>Device</pPort><Cachable>NoCache</Cachable>" extra "<Endianess>LittleEndian</Endianess></" kind ">\n"
#define INT_REG(name, at) REG(name, at, "RW", "IntReg", "<Sign>Unsigned</Sign>")
#define RO_REG(name, at) REG(name, at, "RO", "IntReg", "<Sign>Unsigned</Sign>")
#define FLOAT_REG(name, at) REG(name, at, "RW", "FloatReg", "")
#define TEXT_REG(name, at, mode) \
    "<StringReg Name=\"" name "\"><Address>" at "</Address><Length>32</Length><AccessMode>" mode "</AccessMode>" \
    "<pPort>Device</pPort></StringReg>\n"
#define LOCKED "<pIsLocked>TLParamsLocked</pIsLocked>"
#define ENTRY(name, value) "<EnumEntry Name=\"" name "\"><Value>" value "</Value></EnumEntry>"
#define COMMAND(name, r) "<Command Name=\"" name "\"><pValue>" r "</pValue><CommandValue>1</CommandValue></Command>\n"
#define F(name) "<pFeature>" name "</pFeature>"

static const char xml[] =
    "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n"
    "<RegisterDescription ModelName=\"" MODEL "\" VendorName=\"" VENDOR "\" StandardNameSpace=\"None\" "
    "SchemaMajorVersion=\"1\" SchemaMinorVersion=\"1\" SchemaSubMinorVersion=\"0\" MajorVersion=\"1\" MinorVersion=\"0\" "
    "SubMinorVersion=\"0\" ToolTip=\"Simulated camera\" ProductGuid=\"5b1f5c9e-6a52-4a0e-9b64-0d0c4d9f7a01\" "
    "VersionGuid=\"5b1f5c9e-6a52-4a0e-9b64-0d0c4d9f7a02\" xmlns=\"http://www.genicam.org/GenApi/Version_1_1\">\n"
    "<Category Name=\"Root\">" F("Width") F("Height") F("OffsetX") F("OffsetY") F("PixelFormat") F("PayloadSize")
    F("AcquisitionMode") F("AcquisitionStart") F("AcquisitionStop") F("AcquisitionFrameRate") F("ExposureTime") F("Gain")
    F("TriggerSelector") F("TriggerMode") F("TriggerSource") F("TriggerSoftware") F("UserSetLoad") F("DeviceTemperature")
    F("DeviceSerialNumber") F("DeviceModelName") F("DeviceVendorName") F("DeviceUserID") "</Category>\n"
    "<Integer Name=\"Width\">" LOCKED "<pValue>WidthReg</pValue><Min>16</Min><pMax>WidthMax</pMax><Inc>4</Inc></Integer>\n"
    "<Integer Name=\"Height\">" LOCKED "<pValue>HeightReg</pValue><Min>4</Min><pMax>HeightMax</pMax><Inc>2</Inc></Integer>\n"
    "<Integer Name=\"OffsetX\"><pValue>OffsetXReg</pValue><Min>0</Min><pMax>WidthMax</pMax><Inc>2</Inc></Integer>\n"
    "<Integer Name=\"OffsetY\"><pValue>OffsetYReg</pValue><Min>0</Min><pMax>HeightMax</pMax><Inc>2</Inc></Integer>\n"
    "<Enumeration Name=\"PixelFormat\">" LOCKED ENTRY("Mono8", "0x01080001") ENTRY("Mono16", "0x01100007")
    "<pValue>PixelFormatReg</pValue></Enumeration>\n"
    "<Enumeration Name=\"AcquisitionMode\">" ENTRY("Continuous", "0") ENTRY("SingleFrame", "1")
    "<pValue>AcquisitionModeReg</pValue></Enumeration>\n"
    "<Enumeration Name=\"TriggerSelector\">" ENTRY("FrameStart", "0") "<pValue>TriggerSelectorReg</pValue></Enumeration>\n"
    "<Enumeration Name=\"TriggerMode\">" ENTRY("Off", "0") ENTRY("On", "1") "<pValue>TriggerModeReg</pValue></Enumeration>\n"
    "<Enumeration Name=\"TriggerSource\">" ENTRY("Line1", "0") ENTRY("Software", "1")
    "<pValue>TriggerSourceReg</pValue></Enumeration>\n"
    "<Integer Name=\"TLParamsLocked\"><pValue>LockedReg</pValue><Min>0</Min><Max>1</Max></Integer>\n"
    "<Float Name=\"AcquisitionFrameRate\"><pValue>RateReg</pValue><Min>0.1</Min><Max>2000</Max><Unit>Hz</Unit></Float>\n"
    "<Float Name=\"ExposureTime\"><pValue>ExposureReg</pValue><Min>10</Min><Max>100000</Max><Unit>us</Unit></Float>\n"
    "<Float Name=\"Gain\"><pValue>GainReg</pValue><Min>0</Min><Max>24</Max><Unit>dB</Unit></Float>\n"
    "<Float Name=\"DeviceTemperature\"><ImposedAccessMode>RO</ImposedAccessMode><pValue>TemperatureReg</pValue></Float>\n"
    COMMAND("AcquisitionStart", "StartReg") COMMAND("AcquisitionStop", "StopReg") COMMAND("TriggerSoftware", "TriggerReg")
    COMMAND("UserSetLoad", "UserSetLoadReg")
    INT_REG("WidthReg", "0x1000") INT_REG("HeightReg", "0x1008") INT_REG("OffsetXReg", "0x1010")
    INT_REG("OffsetYReg", "0x1018") INT_REG("PixelFormatReg", "0x1020") INT_REG("AcquisitionModeReg", "0x1028")
    INT_REG("TriggerSelectorReg", "0x1030") INT_REG("TriggerModeReg", "0x1038") INT_REG("TriggerSourceReg", "0x1040")
    INT_REG("LockedReg", "0x1048") FLOAT_REG("RateReg", "0x1050") FLOAT_REG("ExposureReg", "0x1058")
    FLOAT_REG("GainReg", "0x1060") INT_REG("StartReg", "0x1068") INT_REG("StopReg", "0x1070") INT_REG("TriggerReg", "0x1078")
    RO_REG("PayloadSize", "0x1080") RO_REG("WidthMax", "0x1088") RO_REG("HeightMax", "0x1090")
    INT_REG("UserSetLoadReg", "0x1098") FLOAT_REG("TemperatureReg", "0x10A0")
    TEXT_REG("DeviceSerialNumber", "0x2000", "RO") TEXT_REG("DeviceModelName", "0x2020", "RO")
    TEXT_REG("DeviceVendorName", "0x2040", "RO") TEXT_REG("DeviceUserID", "0x2060", "RW")
    "<Port Name=\"Device\"/>\n"
    "</RegisterDescription>\n";

/* ---- the frame thread ---- */
static uint64_t sensor_pixel(const uint8_t *image, uint64_t shot, uint64_t x, uint64_t y) {
    return image ? image[y * get(C_WIDTH) + x] : (uint8_t)(x + y + shot);
}

/* The camera's picture number `shot`: image shot % N of the file, or the pattern (x + y + shot) mod 256. */
static void paint(struct buffer *b, uint64_t shot) {
    uint64_t width = reg[R_WIDTH], height = reg[R_HEIGHT], left = reg[R_OFFSET_X], top = reg[R_OFFSET_Y];
    uint64_t full_width = get(C_WIDTH), full_height = get(C_HEIGHT), pixel = bytes_per_pixel();
    size_t one = full_width * full_height;
    const uint8_t *image = images && images_bytes >= one ? images + (shot % (images_bytes / one)) * one : NULL;
    if (left + width > full_width) left = full_width - width;
    if (top + height > full_height) top = full_height - height;
    if (width * height * pixel > b->size) height = b->size / (width * pixel);
    for (uint64_t y = 0; y < height; y++) {
        uint8_t *row = b->base + y * width * pixel;
        if (pixel == 1 && image) memcpy(row, image + (y + top) * full_width + left, width);
        else for (uint64_t x = 0; x < width; x++) row[x * pixel] = (uint8_t)sensor_pixel(image, shot, x + left, y + top);
    }
    if (get(C_STAMP) && width * height * pixel >= 8) memcpy(b->base, &shot, 8);
    b->width = width;
    b->height = height;
    b->format = reg[R_PIXEL_FORMAT];
    b->filled = width * height * pixel;
}

static uint64_t next_id(uint64_t id) {
    id++;
    if (get(C_ID_BITS) == 16) return id > 65535 ? 1 : id; /* GigE Vision 1.x: 0 is never used */
    if (get(C_ID_BITS) == 32) return id & 0xFFFFFFFFULL;
    return id;
}

/* Takes one picture and hands it over, or loses it as the faults say. Called with the lock held. */
static void shoot(uint64_t *id, uint64_t n) {
    uint64_t skip_every = get(C_SKIP_EVERY), incomplete_every = get(C_INCOMPLETE_EVERY), shot = get(C_SHOTS);
    int repeat = spend(C_REPEAT);
    if (get(C_BACK)) { *id -= get(C_BACK); set(C_BACK, 0); }
    else if (!repeat) *id = next_id(*id);
    set(C_LAST_ID, *id);
    set(C_SHOTS, shot + 1);
    if (spend(C_SKIP_NEXT) || (skip_every && n % skip_every == 0)) { count(C_SKIPPED); return; }
    struct buffer *b = pop(&input);
    if (!b) { underruns++; count(C_UNDERRUNS); return; }
    paint(b, shot);
    b->id = *id;
    b->taken_ns = now_ns();
    b->incomplete = spend(C_INCOMPLETE_NEXT) || (incomplete_every && n % incomplete_every == 0);
    if (b->incomplete) count(C_INCOMPLETES); /* a packet missing in the middle: the size alone does not tell */
    else if (spend(C_TRUNCATE_NEXT)) b->filled /= 2;
    b->where = OUTPUT;
    push(&output, b);
    count(C_DELIVERED);
    pthread_cond_broadcast(&filled);
}

static void wait_until(uint64_t due_ns) {
    struct timespec t = {(time_t)(due_ns / 1000000000ULL), (long)(due_ns % 1000000000ULL)};
    pthread_cond_timedwait(&wake, &lock, &t);
}

static int triggered(void) {
    if (reg[R_TRIGGER_SOURCE] == 1) {
        if (!software_triggers) return 0;
        software_triggers--;
        return 1;
    }
    if (get(C_LINE1) == line1_seen) return 0;
    line1_seen++;
    return 1;
}

static void *frames(void *unused) {
    uint64_t id = get(C_FIRST_ID) - 1, due = 0, n = 0;
    int was_on = 0;
    (void)unused;
    pthread_mutex_lock(&lock);
    while (engine_on) {
        if (get(C_CRASH)) { set(C_CRASH, 0); raise(SIGSEGV); }
        if (!acquiring || unplugged() || (get(C_FRAME_LIMIT) && started_frames >= get(C_FRAME_LIMIT))) {
            was_on = acquiring && was_on;
            wait_until(now_ns() + 2000000);
            due = now_ns();
            continue;
        }
        if (!was_on) { id = get(C_FIRST_ID) - 1; n = 0; due = now_ns(); was_on = 1; }
        if (get(C_STALL_MS)) {
            uint64_t end = now_ns() + get(C_STALL_MS) * 1000000ULL;
            set(C_STALL_MS, 0);
            count(C_STALLS);
            while (engine_on && acquiring && !unplugged() && now_ns() < end) wait_until(now_ns() + 2000000);
            due = now_ns();
        }
        if (reg[R_TRIGGER_MODE]) {
            due = now_ns();
            if (!triggered()) { wait_until(due + 500000); continue; }
        } else if (!spend(C_BURST)) {
            uint64_t now = now_ns();
            if (now < due) { wait_until(due < now + 2000000 ? due : now + 2000000); continue; }
            due += (uint64_t)(1e9 / reg_float(R_RATE));
        }
        shoot(&id, ++n);
        started_frames++;
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

/* ---- GC: library and port ---- */
static void load_images(const char *path) {
    struct stat info;
    int file = *path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    if (fstat(file, &info) == 0 && info.st_size > 0) {
        void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, file, 0);
        if (data != MAP_FAILED) { images = data; images_bytes = (size_t)info.st_size; }
    }
    close(file);
}

static gc_err load_page(void) {
    const char *path = getenv("DRILL_GENTL_CONTROL");
    if (page) return OK;
    if (path && *path) {
        int file = open(path, O_RDWR | O_CLOEXEC);
        void *data = file < 0 ? MAP_FAILED : mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (file >= 0) close(file);
        if (data == MAP_FAILED) return E_ERROR;
        if (*(uint64_t *)data != MAGIC) { munmap(data, PAGE); return E_ERROR; }
        page = data;
        load_images((const char *)data + PATH_AT);
    } else {
        own_page[C_WIDTH] = own_page[C_HEIGHT] = 400;
        own_page[C_FIRST_ID] = 1;
        own_page[C_STAMP] = 1;
        page = own_page;
    }
    return OK;
}

API gc_err GCInitLib(void) {
    pthread_condattr_t attributes;
    if (initialised) return fail(E_IN_USE);
    if (load_page()) return fail(E_ERROR);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&filled, &attributes);
    pthread_cond_init(&wake, &attributes);
    pthread_condattr_destroy(&attributes);
    power_on();
    initialised = 1;
    return OK;
}
static void stop_engine(void);
static void device_close(void);
API gc_err GCCloseLib(void) {
    stop_engine();
    device_close();
    initialised = 0;
    return OK;
}
API gc_err GCGetLastError(gc_err *code, char *out, size_t *size) {
    *code = last_error;
    return give(NULL, T_STRING, out, size, last_text, strlen(last_text) + 1);
}
static gc_err about(int32_t cmd, int32_t *type, void *out, size_t *size) {
    switch (cmd) {
    case 0: return give_text(type, out, size, "DrillProducer");
    case 1: return give_text(type, out, size, VENDOR);
    case 2: return give_text(type, out, size, MODEL);
    case 3: return give_text(type, out, size, "1.0");
    case 4: return give_text(type, out, size, "Custom");
    case 5: return give_text(type, out, size, "drill.cti");
    case 6: return give_text(type, out, size, "drill.cti");
    case 7: return give_text(type, out, size, "Drill producer");
    case 8: return give_int(type, out, size, 0);
    case 9: return give(type, 6, out, size, &(uint32_t){1}, 4);
    case 10: return give(type, 6, out, size, &(uint32_t){5}, 4);
    default: return fail(E_NOT_IMPLEMENTED);
    }
}
API gc_err GCGetInfo(int32_t cmd, int32_t *type, void *out, size_t *size) { return about(cmd, type, out, size); }

/* A dying link: every access takes as long as the page says, then fails if the cable is out. */
static gc_err port_alive(void) {
    uint64_t hang_ms = get(C_PORT_HANG_MS);
    if (hang_ms) {
        struct timespec t = {(time_t)(hang_ms / 1000), (long)(hang_ms % 1000) * 1000000L};
        nanosleep(&t, NULL);
    }
    return unplugged() ? fail(E_IO) : OK;
}
/* Finds the bytes behind an address; the length left there in *left. */
static char *locate(uint64_t address, size_t *left) {
    if (address >= REG_AT && address < REG_AT + sizeof reg) { *left = REG_AT + sizeof reg - address; return (char *)reg + (address - REG_AT); }
    if (address >= TEXT_AT && address < TEXT_AT + sizeof text) { *left = TEXT_AT + sizeof text - address; return (char *)text + (address - TEXT_AT); }
    return NULL;
}
API gc_err GCReadPort(handle port, uint64_t address, void *out, size_t *size) {
    size_t left = 0;
    if (port != &port_object) return fail(E_HANDLE);
    if (address >= XML_AT) {
        if (address + *size > XML_AT + sizeof xml) return fail(E_ADDRESS);
        memcpy(out, xml + (address - XML_AT), *size);
        return OK;
    }
    if (port_alive()) return E_IO;
    pthread_mutex_lock(&lock);
    reg[R_PAYLOAD] = reg[R_WIDTH] * reg[R_HEIGHT] * bytes_per_pixel();
    char *at = locate(address, &left);
    int good = at && *size <= left;
    if (good) memcpy(out, at, *size);
    pthread_mutex_unlock(&lock);
    return good ? OK : fail(E_ADDRESS);
}
API gc_err GCWritePort(handle port, uint64_t address, const void *in, size_t *size) {
    size_t left = 0;
    if (port != &port_object) return fail(E_HANDLE);
    if (port_alive()) return E_IO;
    pthread_mutex_lock(&lock);
    char *at = locate(address, &left);
    int good = at && *size <= left;
    if (good) {
        memcpy(at, in, *size);
        if (address < TEXT_AT) written((int)((address - REG_AT) / 8));
    }
    pthread_mutex_unlock(&lock);
    return good ? OK : fail(E_ADDRESS);
}
API gc_err GCGetPortInfo(handle port, int32_t cmd, int32_t *type, void *out, size_t *size) {
    switch (cmd) {
    case 4: return give_text(type, out, size, port == &port_object ? "Device" : "Module");
    case 5: case 7: case 8: return give_bool(type, out, size, 1);
    case 6: case 9: case 10: return give_bool(type, out, size, 0);
    case 11: return give_text(type, out, size, "1.0");
    case 12: return give_text(type, out, size, "Device");
    default: return about(cmd, type, out, size);
    }
}
API gc_err GCGetNumPortURLs(handle port, uint32_t *n) {
    if (port != &port_object) return fail(E_UNAVAILABLE); /* only the camera has a description; NOT_IMPLEMENTED would read as "zero URLs" */
    *n = 1;
    return OK;
}
API gc_err GCGetPortURLInfo(handle port, uint32_t index, int32_t cmd, int32_t *type, void *out, size_t *size) {
    char url[64];
    if (port != &port_object || index) return fail(E_PARAMETER);
    if (cmd != 0) return fail(E_NOT_IMPLEMENTED);
    snprintf(url, sizeof url, "local:drill.xml;%X;%zX", XML_AT, sizeof xml);
    return give_text(type, out, size, url);
}
API gc_err GCRegisterEvent(handle source, int32_t kind, handle *event) {
    if (source != &ds_object || kind != 1) return fail(E_NOT_IMPLEMENTED);
    if (event_registered) return fail(E_IN_USE);
    event_registered = 1;
    *event = &event_object;
    return OK;
}

/* ---- TL and IF: one interface, one device ---- */
API gc_err TLOpen(handle *tl) { *tl = &tl_object; return initialised ? OK : fail(-1002); }
API gc_err TLClose(handle tl) { (void)tl; return OK; }
API gc_err TLUpdateInterfaceList(handle tl, uint8_t *changed, uint64_t ms) {
    (void)tl; (void)ms;
    if (changed) *changed = 0;
    return OK;
}
API gc_err TLGetNumInterfaces(handle tl, uint32_t *n) { (void)tl; *n = 1; return OK; }
API gc_err TLGetInterfaceID(handle tl, uint32_t index, char *out, size_t *size) {
    (void)tl;
    return index ? fail(E_ID) : give_text(NULL, out, size, interface_id);
}
API gc_err TLOpenInterface(handle tl, const char *id, handle *interface) {
    (void)tl;
    if (strcmp(id, interface_id)) return fail(E_ID);
    *interface = &if_object;
    return OK;
}
API gc_err IFClose(handle interface) { (void)interface; return OK; }
API gc_err IFGetInfo(handle interface, int32_t cmd, int32_t *type, void *out, size_t *size) {
    (void)interface;
    return give_text(type, out, size, cmd == 2 ? "Custom" : interface_id);
}
API gc_err IFUpdateDeviceList(handle interface, uint8_t *changed, uint64_t ms) {
    (void)interface; (void)ms;
    if (changed) *changed = 1;
    return OK;
}
API gc_err IFGetNumDevices(handle interface, uint32_t *n) {
    (void)interface;
    *n = get(C_PULLED) ? 0 : 1;
    return OK;
}
API gc_err IFGetDeviceID(handle interface, uint32_t index, char *out, size_t *size) {
    (void)interface;
    return index ? fail(E_ID) : give_text(NULL, out, size, device_id);
}
/* Owned while the process that opened it lives; a killed owner frees the camera. */
static int owned_by_other(void) {
    pid_t owner = (pid_t)get(C_OWNER);
    return owner && owner != getpid() && (kill(owner, 0) == 0 || errno == EPERM);
}
API gc_err IFGetDeviceInfo(handle interface, const char *id, int32_t cmd, int32_t *type, void *out, size_t *size) {
    (void)interface; (void)id;
    switch (cmd) {
    case 0: return give_text(type, out, size, device_id);
    case 1: return give_text(type, out, size, VENDOR);
    case 2: return give_text(type, out, size, MODEL);
    case 3: return give_text(type, out, size, "Custom");
    case 4: return give_text(type, out, size, MODEL " " SERIAL);
    case 5: return give_int(type, out, size, owned_by_other() ? 4 : dev_open ? 5 : 1);
    case 6: return give_text(type, out, size, "bench");
    case 7: return give_text(type, out, size, SERIAL);
    case 8: return give_text(type, out, size, "1.0");
    default: return fail(E_NOT_IMPLEMENTED);
    }
}
API gc_err IFOpenDevice(handle interface, const char *id, int32_t flags, handle *device) {
    (void)interface; (void)flags;
    if (strcmp(id, device_id) || get(C_PULLED)) return fail(E_ID);
    if (dev_open || owned_by_other()) return fail(E_ACCESS);
    if (opened_at_pull != get(C_PULL_COUNT)) power_on(); /* the camera was without power */
    opened_at_pull = get(C_PULL_COUNT);
    set(C_OWNER, (uint64_t)getpid());
    dev_open = 1;
    count(C_OPENS);
    *device = &dev_object;
    return OK;
}

/* ---- Dev ---- */
static void stream_close(void) {
    stop_engine();
    ds_open = event_registered = 0;
}
static void device_close(void) {
    stream_close();
    if (dev_open && get(C_OWNER) == (uint64_t)getpid()) set(C_OWNER, 0);
    dev_open = 0;
}
API gc_err DevClose(handle device) { (void)device; device_close(); return OK; }
API gc_err DevGetPort(handle device, handle *port) { (void)device; *port = &port_object; return OK; }
API gc_err DevGetInfo(handle device, int32_t cmd, int32_t *type, void *out, size_t *size) {
    return IFGetDeviceInfo(device, device_id, cmd, type, out, size);
}
API gc_err DevGetNumDataStreams(handle device, uint32_t *n) { (void)device; *n = 1; return OK; }
API gc_err DevGetDataStreamID(handle device, uint32_t index, char *out, size_t *size) {
    (void)device;
    return index ? fail(E_ID) : give_text(NULL, out, size, stream_id);
}
API gc_err DevOpenDataStream(handle device, const char *id, handle *stream) {
    (void)device;
    if (strcmp(id, stream_id)) return fail(E_ID);
    if (ds_open) return fail(E_IN_USE);
    ds_open = 1;
    *stream = &ds_object;
    return OK;
}

/* ---- DS: buffers ---- */
API gc_err DSAnnounceBuffer(handle stream, void *base, size_t size, void *user, handle *out) {
    struct buffer *b = calloc(1, sizeof *b);
    (void)stream;
    if (!b) return fail(-1021);
    b->base = base;
    b->size = size;
    b->user = user;
    announced++;
    *out = b;
    return OK;
}
API gc_err DSRevokeBuffer(handle stream, handle h, void **base, void **user) {
    struct buffer *b = h;
    (void)stream;
    if (engine_on || b->where == INPUT || b->where == OUTPUT) return fail(E_BUSY);
    if (base) *base = b->base;
    if (user) *user = b->user;
    announced--;
    free(b);
    return OK;
}
API gc_err DSQueueBuffer(handle stream, handle h) {
    struct buffer *b = h;
    gc_err code = OK;
    (void)stream;
    pthread_mutex_lock(&lock);
    if (b->where == INPUT || b->where == OUTPUT) code = fail(E_IN_USE);
    else { b->where = INPUT; push(&input, b); }
    pthread_mutex_unlock(&lock);
    return code;
}
static void discard(struct queue *q) {
    for (struct buffer *b; (b = pop(q));) b->where = IDLE;
}
API gc_err DSFlushQueue(handle stream, int32_t operation) {
    struct buffer *b;
    (void)stream;
    pthread_mutex_lock(&lock);
    if (operation == 4) discard(&input);
    if (operation == 1 || operation == 4) discard(&output);
    if (operation == 2) while ((b = pop(&output))) { b->where = INPUT; push(&input, b); }
    pthread_mutex_unlock(&lock);
    return OK;
}
API gc_err DSStartAcquisition(handle stream, int32_t flags, uint64_t n) {
    (void)stream; (void)flags; (void)n;
    if (engine_on) return fail(E_IN_USE);
    if (unplugged()) return fail(E_IO);
    engine_on = 1;
    if (pthread_create(&thread, NULL, frames, NULL)) { engine_on = 0; return fail(E_ERROR); }
    thread_alive = 1;
    return OK;
}
static void stop_engine(void) {
    pthread_mutex_lock(&lock);
    engine_on = acquiring = 0;
    pthread_cond_broadcast(&wake);
    pthread_cond_broadcast(&filled);
    pthread_mutex_unlock(&lock);
    if (thread_alive) pthread_join(thread, NULL);
    thread_alive = 0;
}
API gc_err DSStopAcquisition(handle stream, int32_t flags) {
    (void)stream; (void)flags;
    stop_engine();
    return OK;
}
API gc_err DSGetInfo(handle stream, int32_t cmd, int32_t *type, void *out, size_t *size) {
    (void)stream;
    switch (cmd) {
    case 0: return give_text(type, out, size, stream_id);
    case 1: return give_u64(type, out, size, get(C_DELIVERED));
    case 2: return give_u64(type, out, size, underruns);
    case 3: return give_size(type, out, size, announced);
    case 4: return give_size(type, out, size, input.length);
    case 5: return give_size(type, out, size, output.length);
    case 6: return give_u64(type, out, size, started_frames);
    case 7: return give_size(type, out, size, reg[R_WIDTH] * reg[R_HEIGHT] * bytes_per_pixel());
    case 8: return give_bool(type, out, size, (uint8_t)engine_on);
    case 9: return give_bool(type, out, size, 0);
    case 10: return give_text(type, out, size, "Custom");
    case 12: return give_size(type, out, size, 1);
    case 13: return give_size(type, out, size, 1);
    default: return fail(E_NOT_IMPLEMENTED);
    }
}
API gc_err DSGetBufferInfo(handle stream, handle h, int32_t cmd, int32_t *type, void *out, size_t *size) {
    struct buffer *b = h;
    (void)stream;
    switch (cmd) {
    case 0: return give(type, T_PTR, out, size, &b->base, sizeof b->base);
    case 1: return give_size(type, out, size, b->size);
    case 2: return give(type, T_PTR, out, size, &b->user, sizeof b->user);
    case 3: case 28: return give_u64(type, out, size, b->taken_ns);
    case 4: case 17: return give_bool(type, out, size, 1);
    case 5: return give_bool(type, out, size, b->where == INPUT || b->where == OUTPUT);
    case 6: case 29: case 30: return give_bool(type, out, size, 0);
    case 7: return give_bool(type, out, size, (uint8_t)b->incomplete);
    case 8: return give_text(type, out, size, "Custom");
    case 9: return give_size(type, out, size, b->filled);
    case 10: return give_size(type, out, size, b->width);
    case 11: return give_size(type, out, size, b->height);
    case 12: return give_size(type, out, size, reg[R_OFFSET_X]);
    case 13: return give_size(type, out, size, reg[R_OFFSET_Y]);
    case 14: case 15: case 18: return give_size(type, out, size, 0);
    case 16: return give_u64(type, out, size, b->id);
    case 19: return give_size(type, out, size, 1);
    case 20: return give_u64(type, out, size, b->format);
    case 21: return give_u64(type, out, size, 4);
    case 22: return give_size(type, out, size, b->height);
    case 26: return give_int(type, out, size, 1);
    case 27: return give_size(type, out, size, b->filled);
    default: return fail(E_NOT_IMPLEMENTED);
    }
}
API gc_err DSClose(handle stream) { (void)stream; stream_close(); return OK; }

/* ---- events ---- */
API gc_err EventGetData(handle event, void *out, size_t *size, uint64_t timeout_ms) {
    struct { handle buffer; void *user; } data;
    uint64_t end = timeout_ms > 1000000000ULL ? UINT64_MAX : now_ns() + timeout_ms * 1000000ULL;
    if (event != &event_object) return fail(E_HANDLE);
    if (*size < sizeof data) return fail(E_SMALL);
    pthread_mutex_lock(&lock);
    while (!output.head) {
        struct timespec t = {(time_t)(end / 1000000000ULL), (long)(end % 1000000000ULL)};
        int late = end == UINT64_MAX ? pthread_cond_wait(&filled, &lock) : pthread_cond_timedwait(&filled, &lock, &t);
        if (late && !output.head) { pthread_mutex_unlock(&lock); return fail(E_TIMEOUT); }
    }
    struct buffer *b = pop(&output);
    b->where = GIVEN;
    data.buffer = b;
    data.user = b->user;
    pthread_mutex_unlock(&lock);
    memcpy(out, &data, sizeof data);
    *size = sizeof data;
    return OK;
}
API gc_err EventGetInfo(handle event, int32_t cmd, int32_t *type, void *out, size_t *size) {
    (void)event;
    switch (cmd) {
    case 0: return give_int(type, out, size, 1);
    case 1: return give_size(type, out, size, output.length);
    case 2: return give_u64(type, out, size, get(C_DELIVERED));
    case 3: return give_size(type, out, size, 2 * sizeof(void *));
    case 4: return give_size(type, out, size, 0);
    default: return fail(E_NOT_IMPLEMENTED);
    }
}
API gc_err EventFlush(handle event) { (void)event; return OK; }
