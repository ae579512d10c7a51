/* A double of the driver's libdcmi.so: the calls that pth2om makes, answered from the environment.
 *
 * DCMI_DOUBLE_FAIL: "init", "list", "old" (only the calls of older drivers), "hang", "crash", "kb" (memory in KB),
 * "board" (no chip power, the MCU answers). DCMI_DOUBLE_POWER: 0.1 W; DCMI_DOUBLE_CLOCK: the AI Core's MHz now.
 * Structures: dcmi_interface_api.h of the driver.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct chip_info { char type[32], name[32], version[32]; unsigned int cores; };
struct chip_info_v2 { char type[32], name[32], version[32]; unsigned int cores; char npu[32]; };
struct memory { unsigned long long size, available; unsigned int freq; unsigned long page, pages, free_pages;
                unsigned int used; unsigned char reserve[60]; };
struct hbm { unsigned long long size; unsigned int freq; unsigned long long used; int temp; unsigned int rate; };
struct process { int id; unsigned long bytes; };

static int failing(const char *what) {
    const char *asked = getenv("DCMI_DOUBLE_FAIL");
    return asked != NULL && strcmp(asked, what) == 0;
}
static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text != NULL ? atoi(text) : otherwise;
}

int dcmi_init(void) {
    if (failing("hang")) for (;;) pause();
    if (failing("crash")) raise(SIGSEGV);
    return failing("init") ? -8005 : 0;
}
int dcmi_get_driver_version(char *text, unsigned int size) { strncpy(text, "24.1.rc3", size); return 0; }
int dcmi_get_card_num_list(int *count, int *cards, int size) {
    if (failing("list") || size < 1) return -8001;
    *count = 1; cards[0] = 0; return 0;
}
int dcmi_get_device_num_in_card(int card, int *count) { *count = 1; return card == 0 ? 0 : -8001; }
int dcmi_get_device_chip_info(int card, int device, struct chip_info *info) {
    strcpy(info->type, "Ascend"); strcpy(info->name, "310B4"); strcpy(info->version, "V1"); info->cores = 1;
    return 0;
}
int dcmi_get_device_chip_info_v2(int card, int device, struct chip_info_v2 *info) {
    if (failing("old")) return -8255;
    dcmi_get_device_chip_info(card, device, (struct chip_info *)info);
    memset(info->npu, 0, 32);
    return 0;
}
int dcmi_get_device_logic_id(int *logic, int card, int device) { *logic = 0; return 0; }
int dcmi_get_device_temperature(int card, int device, int *value) { *value = 54; return 0; }
int dcmi_get_device_power_info(int card, int device, int *value) {
    if (failing("board")) return -8255;
    *value = number("DCMI_DOUBLE_POWER", 77); return 0;
}
int dcmi_mcu_get_power_info(int card, int *value) { *value = number("DCMI_DOUBLE_POWER", 0x7FFD); return 0; }
int dcmi_get_device_memory_info_v3(int card, int device, struct memory *info) {
    memset(info, 0, sizeof *info);
    info->size = 7545; info->available = failing("kb") ? 5045ull * 1024 : 5045; return 0;
}
int dcmi_get_device_hbm_info(int card, int device, struct hbm *info) { return -8255; }
int dcmi_get_device_frequency(int card, int device, int kind, unsigned int *value) {
    if (kind == 7) *value = number("DCMI_DOUBLE_CLOCK", 1000);
    else if (kind == 9) *value = 1000;
    else if (kind == 1) *value = 4266;
    else return -8255;
    return 0;
}
int dcmi_get_device_utilization_rate(int card, int device, int kind, unsigned int *value) {
    if (kind != 1 && kind != 2 && kind != 3) return -8255;
    *value = kind == 2 ? 3 : 33; return 0;
}
int dcmi_get_device_resource_info(int card, int device, struct process *rows, int *count) {
    int pid = number("DCMI_DOUBLE_PROCESS", 0);
    *count = pid != 0;
    if (pid != 0) { rows[0].id = pid; rows[0].bytes = 412ul << 20; }
    return 0;
}
