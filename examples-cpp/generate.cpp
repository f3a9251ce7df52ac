// generate.cpp: a prompt in, a whole text out.
//
//   c++ -std=c++17 generate.cpp $(pkg-config --cflags --libs aquila) -o generate
//   ./generate models/Aquila-7B "The capital of France is"
#include <aquila.hpp>
#include <iostream>

int main(int argc, char **argv) {
    if (argc != 3) {
        std::cerr << "usage: generate MODEL PROMPT\n";
        return 2;
    }
    try {
        const aquila::Engine engine(argv[1]);
        aquila::Params params;
        params.max_tokens = 32;
        const aquila::Result result = engine.generate(argv[2], params);
        std::cout << result.text() << "\n";
        std::cerr << result.stats().output_tokens << " tokens in " << result.stats().total_ms << " ms\n";
    } catch (const aquila::Error &error) {
        std::cerr << aquila_status_name(error.status()) << ": " << error.what() << "\n";
        return 1;
    }
}
