/* template.h: a text with fields: `system: {message}`.
 * {{ and }} stand for one brace each. Which fields there may be depends on what the text is for. */
#ifndef KQN_TEMPLATE_H
#define KQN_TEMPLATE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api.h"

enum kqn_template_part_kind {
    KQN_PART_LITERAL,
    KQN_PART_MESSAGE,
    KQN_PART_PEER,
    KQN_PART_NUMBER,     /* {n} */
    KQN_PART_CONNECTION, /* {conn} */
};

struct kqn_template_part {
    enum kqn_template_part_kind kind;
    size_t offset; /* literal: in literals */
    size_t len;
};

struct kqn_template {
    struct kqn_template_part *parts;
    int part_count;
    uint8_t *literals;
};

/* 0; -EINVAL, with *error_at on the brace or field that is wrong; -ENOMEM. */
int kqn_template_compile(struct kqn_template *out, enum kqn_template_use use, const char *text, size_t len,
                         size_t *error_at);
void kqn_template_reset(struct kqn_template *template);

/* Whether it is [literal] {message} [literal], so that an answer can be made around the message where that lies. */
bool kqn_template_surrounds(const struct kqn_template *template, const uint8_t **prefix, size_t *prefix_len,
                            const uint8_t **suffix, size_t *suffix_len);

/* Bytes that the answer to a message of this length from such a peer has. */
size_t kqn_template_len(const struct kqn_template *template, size_t message_len, size_t peer_len);
#endif
