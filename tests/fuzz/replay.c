/* replay.c: gives a target the inputs that are kept, where no fuzzer is: replay FILE... */
#include "fuzz.h"

enum {
    MAX_INPUT_BYTES = 1024 * 1024,
};

static uint8_t bytes[MAX_INPUT_BYTES];

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        size_t len = file ? fread(bytes, 1, sizeof(bytes), file) : 0;
        if (!file || ferror(file)) {
            perror(argv[i]);
            return 2;
        }
        fclose(file);
        printf("%s\n", argv[i]); /* the last one named is the one that failed */
        fflush(stdout);
        char *copy = copy_of(bytes, len);
        LLVMFuzzerTestOneInput((const uint8_t *)copy, len);
        free(copy);
    }
    return 0;
}
