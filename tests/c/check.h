/* check.h: what a C test program needs, in one header.
 * A program has a table of rows, each with a name, and runs them one after another:
 *
 *     check_begin("half a line is no message");
 *     CHECK_INT(take(&framing), 0);
 *     check_end();
 *     ...
 *     return check_finish();
 *
 * It prints `ok NAME`, `FAIL NAME: FILE:LINE: what was found and what was expected` or `skip NAME: REASON`, then
 * `N passed, N failed, N skipped`; check_finish() returns the exit status. A failed check does not end its row, so
 * rows clean up after themselves; only the first failure of a row is printed. Checks are for one thread. */
#ifndef KQN_CHECK_H
#define KQN_CHECK_H
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct check {
    const char *name; /* of the row that runs */
    int failed_checks;
    int passed;
    int failed;
    int skipped;
    char first_failure[512];
};
static struct check check;

/* That a condition holds. */
#define CHECK(condition) check_that(condition, __FILE__, __LINE__, "%s is false", #condition)

/* That two integers are equal. */
#define CHECK_INT(actual, expected) check_int((intmax_t)(actual), (intmax_t)(expected), #actual, __FILE__, __LINE__)

/* That a bit is set in flags, or is not. */
#define CHECK_SET(flags, bit)                                                                                          \
    check_that(((flags) & (bit)) != 0, __FILE__, __LINE__, "%s lacks %s, it is %#" PRIxMAX, #flags, #bit,              \
               (uintmax_t)(flags))
#define CHECK_CLEAR(flags, bit)                                                                                        \
    check_that(((flags) & (bit)) == 0, __FILE__, __LINE__, "%s has %s, it is %#" PRIxMAX, #flags, #bit,                \
               (uintmax_t)(flags))

__attribute__((format(printf, 4, 5))) static inline bool check_that(bool holds, const char *file, int line,
                                                                    const char *format, ...)
{
    if (holds || check.failed_checks++ > 0)
        return holds;
    int used = snprintf(check.first_failure, sizeof(check.first_failure), "%s:%d: ", file, line);
    if (used < 0 || (size_t)used >= sizeof(check.first_failure))
        return false;
    va_list values;
    va_start(values, format);
    vsnprintf(check.first_failure + used, sizeof(check.first_failure) - (size_t)used, format, values);
    va_end(values);
    return false;
}

static inline bool check_int(intmax_t actual, intmax_t expected, const char *text, const char *file, int line)
{
    return check_that(actual == expected, file, line, "%s is %" PRIdMAX ", expected %" PRIdMAX, text, actual, expected);
}

static inline void check_begin(const char *name)
{
    check.name = name;
    check.failed_checks = 0;
}

static inline void check_end(void)
{
    if (check.failed_checks == 0) {
        printf("ok %s\n", check.name);
        check.passed++;
    } else {
        printf("FAIL %s: %s", check.name, check.first_failure);
        if (check.failed_checks > 1)
            printf(" (and %d more)", check.failed_checks - 1);
        printf("\n");
        check.failed++;
    }
    fflush(stdout);
}

/* In place of check_begin() and check_end(). */
static inline void check_skip(const char *name, const char *reason)
{
    printf("skip %s: %s\n", name, reason);
    fflush(stdout);
    check.skipped++;
}

static inline int check_finish(void)
{
    printf("%d passed, %d failed, %d skipped\n", check.passed, check.failed, check.skipped);
    return check.failed > 0;
}
#endif
