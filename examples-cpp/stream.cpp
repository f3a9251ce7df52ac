// stream.cpp: text as it is made.
//
//   c++ -std=c++17 stream.cpp $(pkg-config --cflags --libs aquila) -o stream
//   ./stream models/Aquila-7B "Once upon a time"
#include <aquila.hpp>
#include <iostream>

int main(int argc, char **argv) {
    if (argc != 3) {
        std::cerr << "usage: stream MODEL PROMPT\n";
        return 2;
    }
    try {
        aquila::LoadOptions options;
        options.progress = [](std::string_view stage, std::uint64_t done, std::uint64_t total) {
            std::cerr << "\r" << stage << " " << done << "/" << total << "   " << std::flush;
            return true;
        };
        const aquila::Engine engine(argv[1], options);
        std::cerr << "\n";
        aquila::Params params;
        params.max_tokens = 64;
        const aquila::Outcome outcome = engine.stream(argv[2], params, [](const aquila::Event &event) {
            std::cout << event.text() << std::flush;
            return std::cout.good(); // stop when nobody reads any more
        });
        std::cout << "\n";
        std::cerr << outcome.stats.output_tokens << " tokens in " << outcome.stats.total_ms << " ms\n";
    } catch (const aquila::Error &error) {
        std::cerr << aquila_status_name(error.status()) << ": " << error.what() << "\n";
        return 1;
    }
}
