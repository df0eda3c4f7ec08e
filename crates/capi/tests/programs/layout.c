/* Prints how large the structs are and where their last fields lie, to be compared with the library's. */
#include <gcos.h>
#include <stdio.h>

#define ROW(type, last) printf("%s %lu %lu\n", #type, (unsigned long)sizeof(type), (unsigned long)offsetof(type, last))

int main(void) {
    ROW(gcos_put_options, reserved);
    ROW(gcos_key, len);
    ROW(gcos_item, kept);
    ROW(gcos_object_info, reserved);
    ROW(gcos_stats, spill_capacity_bytes);
    ROW(gcos_interval_stats, used_percent);
    return 0;
}
