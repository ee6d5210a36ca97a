/* Calls one function of a shared library on the memory stored in a file, and writes it back: for an emulated CPU.
 *
 * In the file, as words of 64 bits: the function's name (4), its arguments (16), the offset of a list that ends the
 * file; then anything. The list has the offsets of words that hold offsets and become addresses. What the function
 * returns takes the place of the first argument.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef int64_t word;
typedef word Function(word, word, word, word, word, word, word, word, word, word, word, word, word, word, word, word);

int main(int count, char **path) {
    void *library = count == 3 ? dlopen(path[1], RTLD_NOW) : NULL;
    FILE *file = library ? fopen(path[2], "r+b") : NULL;
    if (!file || fseek(file, 0, SEEK_END)) return 1;
    const size_t size = (size_t)ftell(file);
    word *file_at = malloc(size), *a = file_at + 4;
    char *byte = (char *)file_at;
    rewind(file);
    if (!file_at || fread(byte, 1, size, file) != size) return 2;
    for (word *p = (word *)(byte + file_at[20]); (char *)p < byte + size; p++) *(word *)(byte + *p) += (word)byte;
    Function *function = (Function *)dlsym(library, byte);
    if (!function) return 3;
    *a = function(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]);
    rewind(file);
    return fwrite(byte, 1, size, file) != size || fclose(file);
}
